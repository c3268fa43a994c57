"""Work that is recorded once and replayed: CUDA graphs by key, and what they cost.

A graph is the launches of a step with all their addresses: replaying it takes the host microseconds where launching
takes it milliseconds. Whatever changes from step to step is in tensors that keep their place. On a device without
graphs, recorded work is simply done again, so that everything around it can be tried there.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class GraphBudget:
    """What recording may take: once either is used up, no further graph is recorded.

    Compiling kernels is not counted: what is not compiled then would be compiled while serving.
    """

    seconds: float
    nbytes: int


@dataclass
class GraphsReport:
    """What was recorded and what it took; `replays` and `eager` count the steps of either kind since."""

    recorded: int = 0
    wanted: int = 0
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
    _by_key: dict[Hashable, Recorded[Any]] = field(default_factory=dict)
    _pool: Any = None
    _stream: Any = None

    def record(self, key: Hashable, work: Callable[[], Any], warm: Callable[[], Any]) -> bool:
        """Record the work. False if the budget is used up. `warm` does enough of it to load all its kernels."""
        self.report.wanted += 1
        if self.report.seconds >= self.budget.seconds or self.report.nbytes >= self.budget.nbytes:
            return False
        before, begun_s = self._taken_bytes(), time.perf_counter()
        if self.device.type == "cuda":
            warm()
            warmed_s = time.perf_counter()
            self.report.compiling_seconds += warmed_s - begun_s
            begun_s = warmed_s
            self._by_key[key] = self._capture(work)
        else:
            self._by_key[key] = _repeat(work, work())
        self.report.recorded += 1
        self.report.seconds += time.perf_counter() - begun_s
        self.report.nbytes += max(0, self._taken_bytes() - before)
        return True

    def has(self, key: Hashable) -> bool:
        """Whether it was recorded."""
        return key in self._by_key

    def replay(self, key: Hashable) -> Any:
        """Do recorded work again; returns what it returned."""
        recorded = self._by_key[key]
        recorded.replay()
        self.report.replays += 1
        return recorded.outcome

    def close(self) -> None:
        """Give their memory back."""
        self._by_key.clear()
        self._pool = self._stream = None

    def _capture(self, work: Callable[[], Any]) -> Recorded[Any]:
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


def _repeat(work: Callable[[], Any], outcome: Any) -> Recorded[Any]:
    """On a device without graphs. What the work returns must lie where it lay the first time: it is copied there."""

    def replay() -> None:
        fresh = work()
        if isinstance(outcome, torch.Tensor):
            outcome.copy_(fresh)

    return Recorded(replay, outcome)
