"""The events of one response, kept for readers that come, go and come back."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable

import msgspec

from tradewind.base.errors import RequestError


class EventLog:
    """Encoded events by their sequence numbers, from 0 on. Of more than `max_bytes` the oldest are forgotten."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events: deque[bytes] = deque()
        self._first = 0  # the number of the oldest that is kept
        self._is_over = False
        self._news = asyncio.Event()
        self.size_bytes = 0

    def add(self, events: Iterable[bytes]) -> None:
        """The next ones."""
        for event in events:
            self._events.append(event)
            self.size_bytes += len(event)
        while self.size_bytes > self._max_bytes:
            self.size_bytes -= len(self._events.popleft())
            self._first += 1
        self._tell()

    def end(self) -> None:
        """No more will come."""
        self._is_over = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def check(self, after: int) -> None:
        """Raises RequestError if not all events after number `after` are kept."""
        if after + 1 < self._first:
            message = f"events up to {self._first - 1} are kept no more; start after that one, or leave stream out"
            raise RequestError(message, field="starting_after")

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """The events after number `after`, those that are there together, then the others as they come.

        For a reader that is so slow that its next event is kept no more, an event says so, and is the last.
        """
        place = after + 1
        while place >= self._first:
            known = self._first + len(self._events)
            if place < known:
                piece = b"".join([self._events[number - self._first] for number in range(place, known)])
                place = known
                yield piece
            elif self._is_over:
                return
            else:
                await self._news.wait()
        yield encoded(
            {
                "type": "error",
                "sequence_number": place,
                "code": "slow_reader",
                "message": f"event {place} is kept no more: this stream was read too slowly",
                "param": None,
            }
        )


def encoded(event: dict[str, object]) -> bytes:
    """A server-sent event with its type as its name."""
    return b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), msgspec.json.encode(event))
