"""One HTTP request's work in the engine: one stream per prompt, read as one, ended together."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Receive

from tradewind.base.errors import DeadlineExceeded, EngineFailed, RequestError, TradewindError
from tradewind.engine.client import Delta, Stream, Usage
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import SamplingParams
from tradewind.protocol.validate import MAX_SEQUENCES
from tradewind.server.errors import Disconnected
from tradewind.server.service import Service
from tradewind.server.trace import Trace

News = tuple[int, list[Delta]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to generate. Each prompt becomes `params.n` choices; choice = prompt * n + index."""

    prompts: list[list[int]]
    params: SamplingParams
    priority: int = 0
    timeout_s: float | None = None
    cache_salt: str = ""
    is_part: bool = False  # of a larger piece of work, which is paid for and counted as a whole by whoever does it


@dataclass(slots=True)
class Choice:
    """One finished continuation."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str = "stop"
    stop_reason: str | int | None = None

    def extend(self, delta: Delta) -> None:
        """Take in what is new, except the text."""
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or ()
        if delta.finish_reason is not None:
            self.finish_reason = str(delta.finish_reason)
            self.stop_reason = delta.stop_reason


class Told(Protocol):
    """What the shape of an answer asks of its generation. Final when reading has ended."""

    prompt_logprobs: dict[int, list[TokenLogprobs | None]]

    @property
    def usage(self) -> Usage:
        """Over all prompts."""
        ...


class Generation:
    """The streams of one job. Whoever starts one must end it with `abort` (harmless when all is done)."""

    def __init__(self, service: Service, job: Job, trace: Trace) -> None:
        """Submit everything, or nothing: raises RateLimited, or what `AsyncEngine.submit` raises."""
        self._job = job
        self._trace = trace
        self._streams: list[Stream] = []
        self.gone = False  # the client went away
        self.prompt_logprobs: dict[int, list[TokenLogprobs | None]] = {}
        self._reserve(service.engine.ready.max_model_len)
        try:
            for prompt in job.prompts:
                self._streams.append(
                    service.engine.submit(
                        prompt,
                        job.params,
                        priority=job.priority,
                        timeout_s=job.timeout_s,
                        cache_salt=job.cache_salt,
                        is_part=job.is_part,
                    )
                )
        except BaseException:
            self.abort()
            raise
        if not job.is_part:
            trace.params = job.params
            trace.sequences = [number for stream in self._streams for number in stream.request_ids]
            service.metrics.on_asked(job.params)
            service.timelines.add(trace)

    def _reserve(self, max_model_len: int) -> None:
        """Tokens of the caller's allowance: the prompts, and as much of the answers as the request names.

        Whether what it names is in range is looked at later, so no more is reserved than could be used.
        """
        if self._trace.ticket is None or self._job.is_part:
            return
        params = self._job.params
        each = min(max(params.max_tokens or 0, 0), max_model_len)
        answers = len(self._job.prompts) * min(max(params.n, 0), MAX_SEQUENCES)
        self._trace.ticket.reserve(sum(map(len, self._job.prompts)) + answers * each, self._used_tokens)

    def _used_tokens(self) -> int:
        usage = self.usage
        return usage.prompt_tokens + usage.completion_tokens

    def abort(self) -> None:
        """Stop whatever still runs."""
        for stream in self._streams:
            stream.abort()

    async def watch(self, receive: Receive) -> None:
        """Abort as soon as the client goes away. Runs beside the reading; cancelled when the answer is out."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self.abort()

    @property
    def usage(self) -> Usage:
        """Over all prompts; final when reading has ended."""
        parts = [stream.usage for stream in self._streams]
        if len(parts) == 1:
            return parts[0]
        return Usage(
            prompt_tokens=sum(part.prompt_tokens for part in parts),
            completion_tokens=sum(part.completion_tokens for part in parts),
            cached_tokens=sum(part.cached_tokens for part in parts),
        )

    @property
    def has_begun(self) -> bool:
        """Whether the engine has begun with any of it."""
        return any(stream.has_begun for stream in self._streams)

    @property
    def only_stream(self) -> Stream | None:
        """The stream of a job with one prompt; None for several."""
        return self._streams[0] if len(self._streams) == 1 else None

    def read(self) -> AsyncGenerator[News, None]:
        """`(first choice of the prompt, what is new)`, until all is said.

        Raises DeadlineExceeded, EngineFailed or Disconnected instead of ending early.
        """
        return self._read_one() if len(self._streams) == 1 else self._read_many()

    async def _read_one(self) -> AsyncGenerator[News, None]:
        async for deltas in self._streams[0]:
            self._check(0, deltas)
            yield 0, deltas

    async def _read_many(self) -> AsyncGenerator[News, None]:
        """As each stream has news. Streams merge their own news while nobody reads, so little piles up here."""
        inbox: asyncio.Queue[News | TradewindError | None] = asyncio.Queue(maxsize=len(self._streams))
        pumps = [asyncio.create_task(_pump(index, stream, inbox)) for index, stream in enumerate(self._streams)]
        try:
            open_streams = len(pumps)
            while open_streams:
                item = await inbox.get()
                if item is None:
                    open_streams -= 1
                    continue
                if isinstance(item, TradewindError):
                    raise item
                prompt, deltas = item
                self._check(prompt, deltas)
                yield prompt * self._job.params.n, deltas
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def _check(self, prompt: int, deltas: list[Delta]) -> None:
        trace = self._trace
        if trace.ttft_s is None:
            trace.ttft_s = time.monotonic() - trace.started_s
        for delta in deltas:
            if delta.prompt_logprobs is not None:
                self.prompt_logprobs[prompt] = delta.prompt_logprobs
            if delta.finish_reason is not None:
                self._check_finish(delta)

    def _check_finish(self, delta: Delta) -> None:
        self._trace.finish = str(delta.finish_reason)
        if self.gone:
            raise Disconnected("the client went away")
        if delta.finish_reason is FinishReason.DEADLINE:
            raise DeadlineExceeded(f"the request's deadline ({self._job.timeout_s:g} s) passed before it was done")
        if delta.finish_reason is FinishReason.ERROR:
            raise EngineFailed(f"this request failed: {delta.message}")
        if delta.finish_reason is FinishReason.REFUSED:
            raise RequestError(f"this request cannot be answered: {delta.message}")
        if delta.finish_reason is FinishReason.ABORT:
            raise EngineFailed("the request was aborted because the server shut down before it was done")

    def note_error(self, error: TradewindError) -> None:
        """Write an error into the trace that the answer's status does not tell."""
        self._trace.error = error.code or error.kind

    def note_usage(self) -> None:
        """Write the token counts into the trace."""
        if not self._job.is_part:
            self._trace.note_usage(self.usage)


async def _pump(index: int, stream: Stream, inbox: "asyncio.Queue[News | TradewindError | None]") -> None:
    """Carry one stream's news into a shared inbox; then its error, or None."""
    try:
        async for deltas in stream:
            await inbox.put((index, deltas))
    except TradewindError as error:
        await inbox.put(error)
    else:
        await inbox.put(None)


async def consume(generation: Generation, receive: Receive, take: Callable[[int, list[Delta]], object]) -> None:
    """Give all of it to `take`, as it comes. Stops generating when the client goes away."""
    watcher = asyncio.create_task(generation.watch(receive))
    try:
        async with aclosing(generation.read()) as news:
            async for first, deltas in news:
                take(first, deltas)
    finally:
        watcher.cancel()
        generation.abort()
        generation.note_usage()


async def collect(generation: Generation, choices: int, receive: Receive) -> list[Choice]:
    """All of it, for an answer in one piece. Stops generating when the client goes away."""
    done = [Choice() for _ in range(choices)]
    texts: list[list[str]] = [[] for _ in range(choices)]

    def take(first: int, deltas: list[Delta]) -> None:
        for delta in deltas:
            texts[first + delta.index].append(delta.text)
            done[first + delta.index].extend(delta)

    await consume(generation, receive, take)
    for choice, parts in zip(done, texts, strict=True):
        choice.text = "".join(parts)
    return done
