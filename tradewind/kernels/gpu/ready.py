"""Kernels made ready before they are launched, and how many were: the proof that nothing is compiled while serving."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from tradewind.base.log import fields

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Launch:
    """Of a kernel as it is compiled for these arguments; `what` is Triton's own record of them."""

    kernel: Any
    key: str
    what: str


@dataclass(frozen=True)
class _Rehearsing:
    """Stands for Triton's driver of a GPU while nothing is launched: a kernel has nothing ready on it."""

    target: Any

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> Any:
        """What Triton keeps kernels by, and nothing else."""
        return self.target

    def get_current_stream(self, _device: Any) -> int:
        return 0


def _warn_of(faults: list[str], total: int) -> None:
    log.warning(
        "kernels that could not be compiled beforehand are compiled when they are first launched",
        extra=fields(kernels=len(faults), of=total, first=faults[0][:200]),
    )


class ReadyKernels:
    """Makes kernels ready, and counts those made ready in this process, compiled or found in Triton's cache.

    Triton tells one listener in a process: the newest that was told to `watch`.
    """

    def __init__(self, threads: int = 1) -> None:
        """`threads`: how many kernels are compiled at once. Compiling hardly holds Python's lock."""
        self.count = 0
        self.seconds = 0.0  # that `prepare` took
        self._threads = threads
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Begin to count."""
        from triton import knobs

        knobs.runtime.jit_post_compile_hook = self._note

    def _note(self, **_what: Any) -> None:
        with self._lock:
            self.count += 1

    def prepare(
        self,
        work: Callable[[], object],
        progress: Callable[[int, int], None] = lambda _done, _all: None,
        refused: Callable[[list[str], int], None] = _warn_of,
    ) -> None:
        """Make all kernels ready that `work` launches, several at once; `progress(done, all)` is told after each.

        `work` is done once without them, so nothing that it does may depend on what they compute. A kernel that cannot
        be made ready is left to its first launch; so are all if `work` cannot be done in this way. If there are any,
        `refused(faults, all)` is told why not.
        """
        begun_s = time.perf_counter()
        try:
            launches = _rehearse(work)
        except Exception as error:  # noqa: BLE001 - this saves time only, and what is really wrong will come again
            log.warning("kernels are compiled when they are first launched", extra=fields(because=repr(error)[:200]))
            return
        failures: list[str] = []
        loaded: list[Any] = []
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="compile")
        try:
            for done, made in enumerate(as_completed([pool.submit(self._make_ready, launch) for launch in launches])):
                fault = made.exception()
                if fault is not None:
                    failures.append(f"{type(fault).__name__}: {fault}")
                else:
                    loaded.append(made.result())
                progress(done + 1, len(launches))
        finally:
            pool.shutdown(cancel_futures=True)
            for kernel in filter(None, loaded):
                _load_launcher(kernel)
            self.seconds += time.perf_counter() - begun_s
        if failures:
            refused(failures, len(launches))

    def _make_ready(self, launch: _Launch) -> Any:
        """The kernel, unless it is ready already."""
        from triton.runtime import driver

        with self._lock:  # there is one record of the kernels of a device, however many threads are the first to ask
            ready = launch.kernel.device_caches[driver.active.get_current_device()][0]
        if launch.key in ready:  # it might be part of a graph, and must not be replaced
            return None
        kernel = launch.kernel.preload(launch.what)
        _ = kernel.run  # it is loaded onto the device when this is asked for
        return kernel


def _load_launcher(kernel: Any) -> None:
    """Load what launches the kernel once more, while no other thread loads any.

    Triton 3.6 compiles a C module for it, and all of these have one name. Of a module that was loaded before, Python
    puts the functions into the last one that was loaded under that name: of two threads one may be given the other's.
    """
    from triton.runtime import driver

    kernel._run = driver.active.launcher_cls(kernel.src, kernel.metadata)


def _rehearse(work: Callable[[], object]) -> list[_Launch]:
    """Do `work` with nothing launched; each kernel that it would have launched, as it would be compiled."""
    from triton import knobs
    from triton.runtime import driver

    launches: dict[tuple[int, str], _Launch] = {}

    def note(*, key: str, fn: Any, compile: dict[str, Any], **_more: Any) -> bool:
        launches.setdefault((id(fn.jit_function), key), _Launch(fn.jit_function, key, compile["specialization_data"]))
        return True  # it is neither compiled nor launched

    hook, active = knobs.runtime.jit_cache_hook, driver.active
    knobs.runtime.jit_cache_hook = note
    driver.set_active(_Rehearsing(active.get_current_target()))
    try:
        work()
    finally:
        driver.set_active(active)
        knobs.runtime.jit_cache_hook = hook
    return list(launches.values())
