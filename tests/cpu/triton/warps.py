"""Gluon kernels whose warps do different things, in Triton's interpreter: shared memory, barriers, what goes on beside.

Each part of the warps is a thread; one of them runs at a time, and wherever it waits, arrives or asks for something
chance decides who goes on. What is copied beside is there at once, or not before it is waited for, and products read
when somebody waits for them: so a place that is filled again too early, or read too early, gives wrong numbers here,
and parts that wait for each other are found out.
"""

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from triton import language as tl
from triton.runtime.interpreter import TensorHandle, _get_np_dtype

from tests.cpu.triton.gluon import Language, interpreted

_LINE_BYTES = 128


def interpreted_by_warps(kernel: Any, seed: str) -> Any:
    """See `interpreted`."""
    turns = Turns(seed)
    copies = _Copies(turns)
    tl.block_type.layout = None  # what a tensor's type is asked for
    constants = {name: value.value for name, value in kernel.fn.__globals__.items() if isinstance(value, tl.constexpr)}
    products = _Products()
    stand_ins = {
        **constants, "gl": _Language(turns), "mbarrier": _Barriers(turns), "warpgroup_mma": products.multiply,
        "warpgroup_mma_wait": products.wait, "fence_async_shared": lambda: None, "gdc_wait": lambda: None,
        "async_copy": copies, "_copy_from": copies.copy, "_REINTERPRETS": True, "_HAS_BARRIER": True,
    }  # fmt: skip
    return interpreted(kernel, **stand_ins)


class Turns:
    """Who runs. `late`: what happens beside, some time, or when it is waited for."""

    def __init__(self, seed: str) -> None:
        self.late: list[Callable[[], None]] = []
        self._random = random.Random(seed)
        self._haste = self._random.choice((0.05, 0.5, 1.0))  # of what happens beside
        self._ranks: dict[int, float] = {}
        self._changed = threading.Condition()
        self._waiting: dict[int, Callable[[], bool]] = {}
        self._running: int | None = None
        self._fault: BaseException | None = None
        self._me = threading.local()

    def run(self, parts: list[Callable[[], None]]) -> None:
        """All of them, to their ends."""
        self._waiting = {who: lambda: True for who in range(len(parts))}
        threads = [threading.Thread(target=self._one, args=(who, part)) for who, part in enumerate(parts)]
        with self._changed:
            for thread in threads:
                thread.start()
            self._choose()
        for thread in threads:
            thread.join()
        if self._fault is not None:
            raise self._fault
        assert not self.late, "the program ends while it is still written to"

    def pause(self, may_go: Callable[[], bool] = lambda: True) -> None:
        """Let others go on, until this part may."""
        if not hasattr(self._me, "who"):  # before there are parts
            return
        with self._changed:
            self._waiting[self._me.who] = may_go
            self._choose()
            self._take_turn()

    def _one(self, who: int, part: Callable[[], None]) -> None:
        self._me.who = who
        try:
            with self._changed:
                self._take_turn()
            part()
        except BaseException as fault:  # noqa: BLE001 - it is raised where all parts were begun
            with self._changed:
                self._fault = self._fault or fault
                self._changed.notify_all()
        with self._changed:
            if self._fault is None:
                self._choose()

    def _take_turn(self) -> None:
        self._changed.wait_for(lambda: self._running == self._me.who or self._fault is not None)
        if self._fault is not None:
            raise RuntimeError("another part failed") from self._fault
        del self._waiting[self._me.who]

    def _choose(self) -> None:
        while self.late and self._random.random() < self._haste:
            self._do_late()
        while not (able := [who for who, may_go in self._waiting.items() if may_go()]) and self.late:
            self._do_late()
        if able:
            if self._random.random() < 0.1:  # whoever goes first does so for a while, and gets far ahead
                self._ranks.clear()
            self._running = max(able, key=lambda who: self._ranks.setdefault(who, self._random.random()))
        elif self._waiting:
            self._fault = RuntimeError("all parts wait for each other")
        self._changed.notify_all()

    def _do_late(self) -> None:
        self.late.pop(self._random.randrange(len(self.late)))()


@dataclass
class _Shared:
    """Shared memory, in which a tile is all rows' first 128 bytes, then their next ones. Swizzles are left out."""

    flat: NDArray[Any]
    dtype: Any
    shape: list[int]
    is_turned: bool = False

    def index(self, at: Any) -> "_Shared":
        place, size = _number(at), int(np.prod(self.shape[1:]))
        assert 0 <= place < self.shape[0], (place, self.shape)
        return _Shared(self.flat[place * size : (place + 1) * size], self.dtype, self.shape[1:])

    def reinterpret(self, dtype: Any, shape: Any, _layout: None) -> "_Shared":
        flat, sizes = self.flat.view(_get_np_dtype(_plain(dtype))), [_number(size) for size in shape]
        assert int(np.prod(sizes)) == flat.size
        return _Shared(flat, _plain(dtype), sizes)

    def permute(self, _order: tuple[int, int]) -> "_Shared":
        return _Shared(self.flat, self.dtype, self.shape, not self.is_turned)

    def load(self, _layout: None = None) -> Any:
        data = self._lines().reshape(self.shape)
        data = (data.T if self.is_turned else data).copy()
        return tl.tensor(TensorHandle(data, self.dtype), tl.block_type(self.dtype, list(data.shape)))

    def store(self, value: Any) -> None:
        assert value.dtype == self.dtype, (value.dtype, self.dtype)
        self._lines()[...] = value.handle.data.reshape(self._lines().shape)

    def _lines(self) -> NDArray[Any]:
        if len(self.shape) == 1:
            return self.flat
        rows, columns = self.shape
        line = min(columns, _LINE_BYTES // self.flat.itemsize)
        return self.flat.reshape(columns // line, rows, line).transpose(1, 0, 2)


@dataclass
class _Barrier:
    """`left` have yet to arrive until the next phase."""

    count: int = 0
    left: int = 0
    phase: int = 0

    def arrived(self, count: int) -> None:
        self.left -= count
        assert self.left >= 0
        if not self.left:
            self.phase += 1
            self.left = self.count


@dataclass
class _Row:
    barriers: list[_Barrier]

    def index(self, at: Any) -> _Barrier:
        return self.barriers[_number(at)]


class _Barriers:
    """Stands for `mbarrier`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def MBarrierLayout(self) -> None:
        return None

    def init(self, barrier: _Barrier, count: Any) -> None:
        barrier.count = barrier.left = _number(count)

    def arrive(self, barrier: _Barrier, count: Any) -> None:
        barrier.arrived(_number(count))
        self._turns.pause()

    def wait(self, barrier: _Barrier, parity: Any) -> None:
        passed = _number(parity)
        self._turns.pause(lambda: barrier.phase % 2 != passed)


class _Copies:
    """Stands for `async_copy`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._groups: list[list[Callable[[], None]]] = [[]]  # of the one part that copies

    def copy(self, into: _Shared, pointers: Any) -> None:
        def now() -> None:
            into.store(tl.load(pointers))

        self._turns.late.append(now)
        self._groups[-1].append(now)
        self._turns.pause()

    def commit_group(self) -> None:
        self._groups.append([])

    def wait_group(self, outstanding: Any) -> None:
        late, count = self._turns.late, len(self._groups) - 1 - _number(outstanding)
        for now in (now for group in self._groups[: max(count, 0)] for now in group):
            if now in late:
                late.remove(now)
                now()
        del self._groups[: max(count, 0)]


class _Products:
    """Stands for what the tensor cores do beside: operands are read when somebody waits."""

    def __init__(self) -> None:
        self._pending: dict[int, list[_Product]] = defaultdict(list)

    def multiply(self, a: Any, b: _Shared, acc: Any, use_acc: bool = True, is_async: bool = False) -> Any:
        def compute() -> Any:
            first = a.load() if isinstance(a, _Shared) else a
            if not use_acc:
                return tl.dot(first, b.load())
            return tl.dot(first, b.load(), acc.sums if isinstance(acc, _Product) else acc)

        if not is_async:
            return compute()
        product = _Product(compute)
        self._pending[threading.get_ident()].append(product)
        return product

    def wait(self, outstanding: int, deps: tuple["_Product"]) -> Any:
        pending = self._pending[threading.get_ident()]
        while len(pending) > outstanding:
            product = pending.pop(0)
            product.sums = product.compute()
        return deps[0].sums


@dataclass
class _Product:
    compute: Callable[[], Any]
    sums: Any = None


class _Language(Language):
    """Stands for `gluon.language`, where there is more than tensors."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def num_warps(self) -> int:
        return 4

    def allocate_shared_memory(self, dtype: Any, shape: list[Any], _layout: None) -> Any:
        sizes = [_number(size) for size in shape]
        if _plain(dtype) == tl.int64:
            return _Row([_Barrier() for _ in range(sizes[0])])
        flat = np.full(int(np.prod(sizes)) * _plain(dtype).primitive_bitwidth // 8, 0xFF, np.uint8)  # no numbers
        return _Shared(flat.view(_get_np_dtype(_plain(dtype))), _plain(dtype), sizes)

    def warp_specialize(self, parts: list[Any], _warps: list[int], _registers: list[int]) -> None:
        self._turns.run([lambda part=part, arguments=arguments: part(*arguments) for part, arguments in parts])

    def barrier(self) -> None:
        self._turns.pause()


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)


def _number(value: Any) -> int:
    value = _plain(value)
    return int(value.handle.data.item()) if isinstance(value, tl.tensor) else int(value)
