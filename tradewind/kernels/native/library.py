"""Opens the shared library of CPU kernels and binds its functions."""

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tradewind.base.errors import ConfigError
from tradewind.kernels.choice import Device

log = logging.getLogger(__name__)

# Must equal tw_abi() in cpu.cpp.
ABI = 8
FILE_NAME = "_native.so"
# Instruction sets, best first; the number is TW_LEVEL in vec.h. Results are defined per level.
LEVELS = {"avx512_bf16": 5, "avx512_vnni": 4, "avx512": 3, "avx2": 2, "portable": 1}
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_TYPES: dict[str, Any] = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}


@dataclass(frozen=True)
class Library:
    """The kernels of one instruction set, or why there are none."""

    level: str
    why_not: str | None = None
    handle: ctypes.CDLL | None = None

    def function(self, name: str, signature: str) -> Callable[..., None]:
        """The function `name` of this level. Signature: a letter an argument, p pointer, l int64, i int, f float.

        If there is no library, a function that must not be called.
        """
        if self.handle is None:
            return _never
        function = self.handle[f"tw_{name}_{self.level}"]
        function.argtypes = [_TYPES[letter] for letter in signature]
        function.restype = None
        return function

    def unavailable(self, device: Device, dtype: torch.dtype) -> str | None:
        """Why the kernels cannot serve this device and dtype, or None."""
        if device.type != "cpu":
            return "runs on CPUs only"
        if dtype not in DTYPE_CODES:
            return f"no kernel for {dtype}"
        return self.why_not


def _never(*_arguments: Any) -> None:
    raise AssertionError("a kernel was called that is not available")


def load(level: str | None = None) -> Library:
    """The library for the fastest instruction set of this machine, or for `level`, one of LEVELS.

    Never fails because the library is missing: the reason is in `why_not`, and in one line of the log. Raises
    ConfigError for a level that does not exist or that this machine cannot run.
    """
    return _load(level)


@functools.cache
def _load(level: str | None) -> Library:
    if level is not None and level not in LEVELS:
        raise ConfigError(f"{level!r} is no instruction set; there are {', '.join(LEVELS)}", field="instruction_set")
    path = _find()
    if path is None:
        why_not = "the C++ kernels were not built when Tradewind was installed (no compiler?)"
        log.warning("%s; the slower torch kernels are used", why_not)
        return Library(level or "none", why_not)
    try:
        handle = _open(path)
    except OSError as error:
        log.warning("the C++ kernels cannot be loaded, the slower torch kernels are used: %s", error)
        return Library(level or "none", f"{path} cannot be loaded: {error}")
    if handle.tw_abi() != ABI:
        log.warning("%s is out of date, the slower torch kernels are used; install Tradewind again", path)
        return Library(level or "none", f"{path} is out of date")
    return Library(_choose_level(handle, level), None, handle)


def runnable() -> list[str]:
    """The instruction sets that this machine and build can run, best first; none where there is no library."""
    library = load()
    return [] if library.handle is None else _possible(library.handle)


def _find() -> Path | None:
    """The library lies beside this file."""
    path = Path(__file__).with_name(FILE_NAME)
    return path if path.is_file() else None


def _open(path: Path) -> ctypes.CDLL:
    """Open the library so that it shares the OpenMP runtime, and so the thread pool, that torch has loaded.

    The library leaves the OpenMP symbols undefined and names no runtime of its own: torch's wheels ship one, under
    names that differ, and a second runtime would mean a second pool of threads. So the one in use is made visible.
    """
    runtime = openmp_runtime()
    ctypes.CDLL(runtime or "libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def openmp_runtime() -> str | None:
    """Path of the OpenMP runtime that this process has loaded (torch is imported above), or None."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    for line in maps.read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if Path(path).name.startswith(("libgomp", "libomp", "libiomp")):
            return path
    return None


def _choose_level(handle: ctypes.CDLL, wanted: str | None) -> str:
    possible = _possible(handle)
    if wanted is None:
        best = handle.tw_best_level()
        return next(name for name in possible if LEVELS[name] <= best)
    if wanted not in possible:
        raise ConfigError(f"this machine and build run {', '.join(possible)}, not {wanted}", field="instruction_set")
    return wanted


def _possible(handle: ctypes.CDLL) -> list[str]:
    """The levels that were compiled and that this machine can run, best first."""
    highest = handle.tw_highest_level()
    return [name for name, number in LEVELS.items() if number <= highest and hasattr(handle, f"tw_linear_{name}")]
