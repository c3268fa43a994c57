"""Answers: JSON in one piece, or a stream of server-sent events that never outlives or outgrows its reader."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tradewind.base.errors import TradewindError
from tradewind.engine.client import Delta, Stream, Usage
from tradewind.server.errors import Disconnected
from tradewind.server.generation import Generation
from tradewind.server.metrics import Metrics
from tradewind.server.trace import SCOPE_KEY, Trace

DROP_EXTENSION = "tradewind.drop"  # scope["extensions"]: a callable that cuts the connection at once
# scope["extensions"]: writes a piece of the body without waiting; False if there is no room
WRITE_EXTENSION = "tradewind.write"
UNSENT_EXTENSION = "tradewind.unsent"  # scope["extensions"]: how many written bytes the client has not taken yet

_EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


WriteNow = Callable[[bytes], bool]


def escape_line_ends(events: bytes) -> bytes:
    r"""Write U+0085, U+2028 and U+2029 in the JSON of `events` as `\uXXXX`, which says the same.

    The specification of server-sent events ends lines at \r and \n only, but many clients take Unicode's line ends too
    (Python's `splitlines`, httpx's `iter_lines`), and tear such an event apart.
    """
    if b"\xc2\x85" in events:
        events = events.replace(b"\xc2\x85", b"\\u0085")
    if b"\xe2\x80" in events:
        events = events.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return events


class JsonAnswer(Response):
    """A body that msgspec encodes."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(msgspec.json.encode(value), status, headers)


class EventShape(Protocol):
    """How one route writes its events."""

    def events(self, first_choice: int, deltas: list[Delta], /) -> bytes:
        """The events for what is new; empty when there is nothing to say yet. `first_choice`: index 0 of the prompt."""
        ...

    def last_events(self, usage: Usage) -> bytes:
        """What ends a stream that ended well."""
        ...

    def error_event(self, error: TradewindError) -> bytes:
        """What ends a stream that failed."""
        ...


class EventStream(Response):
    """A generation as server-sent events.

    The status line waits for the first news, so that whatever fails before it is an ordinary error. After that, an
    error is an event of its own and the stream ends without its usual last event. The reader's pace is the
    connection's: a write waits while the connection's buffer is full, and meanwhile the engine's news merge.
    """

    def __init__(self, generation: Generation, shape: EventShape, metrics: Metrics, write_timeout_s: float) -> None:
        super().__init__(status_code=200)
        self._generation = generation
        self._shape = shape
        self._metrics = metrics
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace: Trace = scope[SCOPE_KEY]
        generation = self._generation
        watcher = asyncio.create_task(generation.watch(receive))
        writer = _Writer(scope, self._metrics, self._write_timeout_s, self._stop)
        try:
            # In a task of its own: resuming it for each token need not go down through every layer above.
            await asyncio.create_task(self._run(send, writer, scope.get("extensions", {}).get(WRITE_EXTENSION)))
        except Disconnected as error:
            trace.error = error.code
        finally:
            writer.close()
            watcher.cancel()
            generation.abort()
            generation.note_usage()

    async def _run(self, send: Send, writer: "_Writer", write_now: WriteNow | None) -> None:
        started = False
        events = self._shape.events
        try:
            async with aclosing(self._generation.read()) as news:
                async for first_choice, deltas in news:
                    body = events(first_choice, deltas)
                    if not started:
                        started = True
                        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
                    if body:
                        await writer.write(body)
                    if write_now is not None and (stream := self._generation.only_stream) is not None:
                        await self._flow(stream, write_now)
        except TradewindError as error:
            if not started or isinstance(error, Disconnected):
                raise
            self._generation.note_error(error)
            await writer.write(self._shape.error_event(error), last=True)
        else:
            await writer.write(self._shape.last_events(self._generation.usage), last=True)

    async def _flow(self, stream: Stream, write_now: WriteNow) -> None:
        """Send news from inside the engine's turn, with no task to wake, for as long as there is nothing else to do.

        Returns when a sequence ends, the stream fails or the connection is full: the loop that called knows what then.
        Most tokens of most streams come this way, at a third of the price.
        """
        events = self._shape.events
        over = asyncio.get_running_loop().create_future()

        def on_news() -> None:
            if over.done():
                return
            try:
                if stream.flows and write_now(b""):
                    write_now(escape_line_ends(events(0, stream.take())))
                    return
                over.set_result(None)
            except Exception as error:  # noqa: BLE001 - a fault here must end this stream alone, not the engine's turn
                over.set_exception(error)

        stream.listen(on_news)
        try:
            on_news()
            await over
        finally:
            stream.listen(None)

    def _stop(self) -> None:
        self._generation.gone = True
        self._generation.abort()


class FollowedStream(Response):
    """Pieces of server-sent events from a source that goes on without its reader: who goes away ends the reading only.

    The reader's pace is the connection's; one that takes nothing for `write_timeout_s` is dropped.
    """

    def __init__(self, pieces: AsyncGenerator[bytes, None], metrics: Metrics, write_timeout_s: float) -> None:
        super().__init__(status_code=200)
        self._pieces = pieces
        self._metrics = metrics
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace: Trace = scope[SCOPE_KEY]
        reading = asyncio.create_task(self._run(scope, send))
        leaving = asyncio.create_task(_disconnect(receive))
        try:
            await asyncio.wait((reading, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                trace.error = trace.error or Disconnected.code
        finally:
            leaving.cancel()
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        if not reading.cancelled():
            reading.result()

    async def _run(self, scope: Scope, send: Send) -> None:
        writer = _Writer(scope, self._metrics, self._write_timeout_s)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_HEADERS})
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await writer.write(piece)
            await writer.write(b"", last=True)
        finally:
            writer.close()


async def _disconnect(receive: Receive) -> None:
    """Returns when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Writer:
    """Sends pieces of a body; drops a client that takes nothing for `timeout_s` while one of them is stuck.

    A clock per write would cost more than the write: a timer per stream looks, four times per timeout, whether the
    same write is still under way. One that only waits for a slow reader shows in the bytes this one has yet to take.
    """

    def __init__(
        self, scope: Scope, metrics: Metrics, timeout_s: float, stop: Callable[[], None] | None = None
    ) -> None:
        """`stop`: called when the client is dropped, before the connection is cut."""
        extensions = scope.get("extensions", {})
        self._trace: Trace = scope[SCOPE_KEY]
        self._metrics = metrics
        self._stops = [call for call in (stop, extensions.get(DROP_EXTENSION)) if call is not None]
        self._unsent: Callable[[], int] = extensions.get(UNSENT_EXTENSION, int)
        self._interval_s = timeout_s / 4
        self._writes = 0
        self._busy = False
        self._seen = (0, 0)  # the write that was under way at the last look, and the bytes not taken then
        self._looks = 0  # how many looks found just that again
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._interval_s, self._look)

    async def write(self, body: bytes, last: bool = False) -> None:
        """Wait until the connection has room, then send."""
        self._writes += 1
        self._busy = True
        await self._trace.send({"type": "http.response.body", "body": escape_line_ends(body), "more_body": not last})
        self._busy = False

    def close(self) -> None:
        """Forget the timer."""
        self._timer.cancel()

    def _look(self) -> None:
        seen, self._seen = self._seen, (self._writes, self._unsent())
        self._looks = self._looks + 1 if self._busy and seen == self._seen else 0
        if self._looks >= 4:
            self._drop()
            return
        self._timer = self._loop.call_later(self._interval_s, self._look)

    def _drop(self) -> None:
        self._trace.error = "slow_reader"
        self._metrics.slow_readers += 1
        for call in self._stops:
            call()
