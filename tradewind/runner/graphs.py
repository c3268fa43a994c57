"""Work that is recorded once and replayed: CUDA graphs by key, and what they cost.

A graph is the launches of a step with all their addresses: replaying it takes the host microseconds where launching
takes it milliseconds. Whatever changes from step to step is in tensors that keep their place. On a device without
graphs, recorded work is simply done again, so that everything around it can be tried there.
"""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from tradewind.base.log import fields

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[], Any]
Key = tuple[str, int]  # a kind of graph, and its size


@dataclass(frozen=True)
class GraphBudget:
    """What recording may take.

    Once the seconds are used up, graphs are postponed: `Graphs.record_postponed` records them when there is time. Once
    the bytes are used up, or there is no memory for `most_bytes`, no further graph is recorded at all. Compiling
    kernels is not counted, and is done for postponed graphs too: what is not compiled at boot would be compiled while
    serving.
    """

    seconds: float
    nbytes: int
    most_bytes: int = 0  # of one graph


@dataclass
class GraphsReport:
    """What was recorded and what it took; `replays` and `eager` count the steps of either kind since.

    `recorded` includes those that had been `postponed`, which is how many still are.
    """

    recorded: int = 0
    wanted: int = 0
    postponed: int = 0
    seconds: float = 0.0
    compiling_seconds: float = 0.0  # and launching each kernel for the first time
    nbytes: int = 0
    replays: int = 0
    eager: int = 0


@dataclass
class Recorded(Generic[T]):
    """`outcome`: what the work returned; its tensors are overwritten by each replay."""

    replay: Callable[[], None]
    outcome: T


@dataclass
class Graphs:
    """All graphs of a runner. They share memory: one runs at a time, and what it leaves is used before the next."""

    device: torch.device
    budget: GraphBudget
    report: GraphsReport = field(default_factory=GraphsReport)
    _by_key: dict[Key, Recorded[Any]] = field(default_factory=dict)
    _postponed: deque[tuple[Key, Work]] = field(default_factory=deque)  # the most worth having first
    _pool: Any = None
    _stream: Any = None
    _is_full: bool = False  # the device had no memory for a graph

    def record(self, key: Key, work: Work, warm: Work) -> bool:
        """Record the work, or postpone it. Whether it was recorded. `warm` does enough of it to load all its kernels.

        Kernels are loaded in any case.
        """
        self.report.wanted += 1
        if self.device.type == "cuda":
            begun_s = time.perf_counter()
            warm()
            self.report.compiling_seconds += time.perf_counter() - begun_s
        if not self._has_room:
            return False
        if self.report.seconds >= self.budget.seconds:
            self._postponed.append((key, work))
            self.report.postponed += 1
            return False
        return self._record(key, work)

    def record_postponed(self) -> Key | None:
        """Record one of the graphs that boot had no time for; its key. None: there is none, or no memory for it."""
        recorded = None
        if self._postponed and self._has_room:
            key, work = self._postponed.popleft()
            recorded = key if self._record(key, work) else None
        if not self._has_room:
            self._postponed.clear()
        self.report.postponed = len(self._postponed)
        return recorded

    def has(self, key: Key) -> bool:
        """Whether it was recorded."""
        return key in self._by_key

    def replay(self, key: Key) -> Any:
        """Do recorded work again; returns what it returned."""
        recorded = self._by_key[key]
        recorded.replay()
        self.report.replays += 1
        return recorded.outcome

    def close(self) -> None:
        """Give their memory back."""
        self._by_key.clear()
        self._postponed.clear()
        self._pool = self._stream = None

    @property
    def _has_room(self) -> bool:
        return not self._is_full and self.report.nbytes < self.budget.nbytes

    def _record(self, key: Key, work: Work) -> bool:
        """False if the device's memory may not suffice: then there will be no more graphs."""
        if not self._has_memory():
            self._is_full = True
            log.warning(
                "the device has no memory for more graphs: steps of other sizes are launched kernel by kernel",
                extra=fields(recorded=self.report.recorded, wanted=self.report.wanted),
            )
            return False
        before, begun_s = self._taken_bytes(), time.perf_counter()
        self._by_key[key] = self._capture(work) if self.device.type == "cuda" else _repeat(work, work())
        self.report.recorded += 1
        self.report.seconds += time.perf_counter() - begun_s
        self.report.nbytes += max(0, self._taken_bytes() - before)
        return True

    def _has_memory(self) -> bool:
        """For any graph: where memory runs out while one is recorded, torch ends the process."""
        if _free_bytes(self.device) < self.budget.most_bytes:
            torch.cuda.empty_cache()  # a graph cannot have what other work left there
        return _free_bytes(self.device) >= self.budget.most_bytes

    def _capture(self, work: Work) -> Recorded[Any]:
        if self._stream is None:
            self._stream, self._pool = torch.Stream(self.device), torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        # Not `torch.cuda.graph`, which gives all cached memory back before each of a hundred graphs.
        with self._stream:
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            outcome = work()
            graph.capture_end()
        return Recorded(graph.replay, outcome)

    def _taken_bytes(self) -> int:
        """By this process: what is free on the device depends on others, too."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0


def _free_bytes(device: torch.device) -> int:
    """Of its memory; no end of it where nothing is recorded."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else sys.maxsize


def _repeat(work: Work, outcome: Any) -> Recorded[Any]:
    """On a device without graphs. What the work returns must lie where it lay the first time: it is copied there."""

    def replay() -> None:
        fresh = work()
        if isinstance(outcome, torch.Tensor):
            outcome.copy_(fresh)

    return Recorded(replay, outcome)
