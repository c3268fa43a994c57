"""What a client of the engine reads: deltas of one request, its usage, its timings."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from tradewind.base.errors import TradewindError
from tradewind.engine.output import Delta, SequenceOutput
from tradewind.protocol.request import FinishReason


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one request so far. `cached_tokens` of the prompt came from the prefix cache.

    `reasoning_tokens` of the completion, as far as somebody has counted them.
    """

    prompt_tokens: int
    completion_tokens: int  # over all n sequences
    cached_tokens: int
    reasoning_tokens: int | None = None


class RequestTimings(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence, as its client saw it: one that ended, or (`finish_reason` None) so far. Times in seconds."""

    request_id: int
    index: int
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    submitted_s: float  # monotonic
    e2e_s: float  # submit to finish, or to now
    queue_s: float | None  # submit to first run; None if it never ran
    ttft_s: float | None  # submit to first token; None if there was none


class EngineListener(Protocol):
    """Who wants to know (metrics). Called on the event loop's thread; must return at once and not raise."""

    def on_step(self, ttft_s: list[float], inter_token_s: list[float]) -> None:
        """One step's tokens arrived: the first ones of a sequence (time since submit), the others (since the last)."""
        ...

    def on_finished(self, timings: RequestTimings) -> None:
        """One sequence ended, for whatever reason."""
        ...


def timings_of(output: SequenceOutput, prompt_tokens: int, now_s: float) -> RequestTimings:
    """The timings of a sequence now."""
    return RequestTimings(
        request_id=output.request_id,
        index=output.index,
        finish_reason=output.finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=output.completion_tokens,
        cached_tokens=output.cached_tokens,
        submitted_s=output.submitted_s,
        e2e_s=now_s - output.submitted_s,
        queue_s=output.queue_s,
        ttft_s=output.ttft_s,
    )


@dataclass(slots=True, eq=False)
class Feed:
    """The engine's side of a stream: its sequences, and the reader to wake, or the listener to call."""

    prompt_tokens: int
    outputs: list[SequenceOutput] = field(default_factory=list)
    waiter: "asyncio.Future[None] | None" = None
    listener: Callable[[], None] | None = None
    error: TradewindError | None = None

    def wake(self) -> None:
        """Let the reader, if one waits, see what is new."""
        if self.listener is not None:
            self.listener()
            return
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: TradewindError) -> None:
        """End the stream with `error`, after what was already said."""
        self.error = error
        self.wake()

    @property
    def done(self) -> bool:
        """Whether every sequence ended."""
        return self.error is not None or None not in [output.finish_reason for output in self.outputs]


class Stream:
    """One request's answer: `async for deltas in stream` yields `list[Delta]`, everything new since the last time.

    Iteration ends after the last sequence's finish, and raises EngineFailed if the engine dies first. One reader at a
    time. A stream that is closed, aborted or forgotten is aborted in the engine within one step.
    """

    def __init__(self, feed: Feed, loop: asyncio.AbstractEventLoop, abort: Callable[[Feed], None]) -> None:
        self._feed = feed
        self._loop = loop
        self._abort = abort

    @property
    def usage(self) -> Usage:
        """Tokens so far; final when iteration has ended."""
        outputs = self._feed.outputs
        completion = sum(output.completion_tokens for output in outputs)
        cached = outputs[0].cached_tokens
        return Usage(prompt_tokens=self._feed.prompt_tokens, completion_tokens=completion, cached_tokens=cached)

    @property
    def has_begun(self) -> bool:
        """Whether any of its sequences has run."""
        return any(output.queue_s is not None for output in self._feed.outputs)

    @property
    def request_ids(self) -> list[int]:
        """The engine's ids of the n sequences."""
        return [output.request_id for output in self._feed.outputs]

    def abort(self) -> None:
        """Stop generating. What was said already can still be read, then each open sequence ends with ABORT."""
        if not self._feed.done:
            self._abort(self._feed)

    # --- reading without a task: for a reader that can take news wherever it is called -------------------------------

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call `listener` at every news, inside the engine's own turn: it must be quick, and must not raise.

        None ends it; what was not taken by then is there for iteration.
        """
        self._feed.listener = listener

    @property
    def flows(self) -> bool:
        """Whether nothing has ended yet: no error, no finish of any of the n sequences."""
        feed = self._feed
        reasons = [output.finish_reason for output in feed.outputs]
        return feed.error is None and reasons.count(None) == len(reasons)

    def take(self) -> list[Delta]:
        """Everything new since the last time; empty if there is nothing."""
        return [delta for output in self._feed.outputs if (delta := output.take()) is not None]

    # --- reading by iteration ----------------------------------------------------------------------------------------

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> list[Delta]:
        feed = self._feed
        while True:
            deltas = self.take()
            if deltas:
                return deltas
            if feed.error is not None:
                raise feed.error
            if feed.done:
                raise StopAsyncIteration
            assert feed.waiter is None, "a stream has one reader"
            waiter = feed.waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                feed.waiter = None

    async def aclose(self) -> None:
        """The same as `abort`; lets a stream be used with `contextlib.aclosing`."""
        self.abort()

    def __del__(self) -> None:
        # May run on any thread, wherever the collector runs, and after the loop has been closed.
        if not self._feed.done and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abort, self._feed)
