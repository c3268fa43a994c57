"""Masks that take long, computed where they delay nobody but their own sequence."""

import time
from collections import OrderedDict
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tradewind.grammar.matcher import Matcher

_THREADS = 2
_SHARE = 0.1  # of the loop's time, while there is other work
_MOST_SAVED_S = 0.001


class LateMasks(Protocol):
    """Matchers whose next mask is prepared (`Matcher.prepare`); until it is `ready`, nobody else may use them."""

    def __len__(self) -> int:
        """How many are not ready, or have not been asked for."""
        ...

    def begin(self, request_id: int, matcher: "Matcher") -> None:
        """Prepare the mask of this sequence."""
        ...

    def forget(self, request_id: int) -> None:
        """Nobody wants it any more. Ids that are not here are ignored."""
        ...

    def ready(self) -> list[int]:
        """Whose masks have been prepared since the last time. Called before each step."""
        ...

    def wait(self, timeout_s: float, /) -> None:
        """Called when there is nothing else to do: until one is ready, at most so long."""
        ...

    def close(self) -> None:
        """No more will be asked for."""
        ...


class InThreads:
    """For a device that leaves the host's cores to the host."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mask")
        self._begun: dict[int, Future[None]] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, request_id: int, matcher: "Matcher") -> None:
        self._begun[request_id] = self._threads.submit(matcher.prepare)

    def forget(self, request_id: int) -> None:
        self._begun.pop(request_id, None)

    def ready(self) -> list[int]:
        done = [request_id for request_id, future in self._begun.items() if future.done()]
        for request_id in done:
            del self._begun[request_id]
        return done

    def wait(self, timeout_s: float) -> None:
        wait(self._begun.values(), timeout_s, FIRST_COMPLETED)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class InTurns:
    """For a device that is the host: threads would take its cores from it in the middle of a step.

    Between two steps, in order of arrival, and only for a share of the time: after one that took long, none for a
    while. With nothing else to do, one after the other.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, Matcher] = OrderedDict()
        self._done: list[int] = []
        self._seen_s = time.monotonic()
        self._left_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._done)

    def begin(self, request_id: int, matcher: "Matcher") -> None:
        self._waiting[request_id] = matcher

    def forget(self, request_id: int) -> None:
        self._waiting.pop(request_id, None)

    def ready(self) -> list[int]:
        now_s = time.monotonic()
        self._left_s = min(self._left_s + _SHARE * (now_s - self._seen_s), _MOST_SAVED_S)
        self._seen_s = now_s
        while self._waiting and self._left_s > 0:
            begun_s = time.monotonic()
            self._prepare_next()
            self._left_s -= time.monotonic() - begun_s
        done, self._done = self._done, []
        return done

    def wait(self, _timeout_s: float) -> None:
        if not self._done:
            self._prepare_next()

    def close(self) -> None:
        self._waiting.clear()

    def _prepare_next(self) -> None:
        request_id, matcher = self._waiting.popitem(last=False)
        matcher.prepare()
        self._done.append(request_id)
