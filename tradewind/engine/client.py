"""The engine for an asyncio program: it runs in a process of its own, supervised from here. Imports no torch."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import msgspec

from tradewind.base import errors
from tradewind.base.clock import SystemClock
from tradewind.base.errors import Draining, EngineFailed, EngineUnavailable, Overloaded, StartupError, TradewindError
from tradewind.config import Config
from tradewind.engine.beams import BeamSearch
from tradewind.engine.history import History, TokenTime
from tradewind.engine.model_files import load_text, locate
from tradewind.engine.output import Delta, OutputTable, SequenceOutput
from tradewind.engine.resolve import Limits, Resolver, Terms
from tradewind.engine.stream import EngineListener, Feed, RequestTimings, Stream, Usage, timings_of
from tradewind.engine.supervisor import Supervisor
from tradewind.protocol.messages import Abort, Add, Ready, Refused, Step
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import EngineStats
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams
from tradewind.protocol.snapshot import EngineView
from tradewind.scheduler.pace import Pace

if TYPE_CHECKING:
    from tradewind.text.generation import GenerationDefaults
    from tradewind.text.tokenizer import Tokenizer

__all__ = ["AsyncEngine", "Delta", "EngineListener", "EngineState", "RequestTimings", "Stream", "Usage"]

EngineState = Literal["starting", "ready", "restarting", "failed", "draining"]
ProgressCall = Callable[[str, float], None]


class AsyncEngine:
    """One engine process and its clients. All methods belong to the thread of one running event loop.

    `tokenizer` and `defaults` (the model's own sampling defaults) are there once it has booted.
    """

    tokenizer: "Tokenizer"
    defaults: "GenerationDefaults"

    @classmethod
    async def start(cls, config: Config, on_progress: ProgressCall | None = None) -> "AsyncEngine":
        """Find the model, start the process and wait until it is ready.

        `on_progress(stage, share)` is called on the way. Raises StartupError (or one of its kinds) when it cannot be.
        """
        engine = cls(config, on_progress)
        try:
            await engine.boot()
        except BaseException:
            await engine.close()
            raise
        return engine

    def __init__(
        self, config: Config, on_progress: ProgressCall | None = None, command: Sequence[str] | None = None
    ) -> None:
        """Nothing is started before `boot`. `command` starts the process; tests put another one in its place."""
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._on_progress = on_progress or (lambda _stage, _share: None)
        self._supervisor = Supervisor(config, self._on_progress, command)
        self._supervisor.connect(self._on_step, self._on_refused, self._on_death, lambda: bool(self._feeds))
        self._resolver: Resolver | None = None
        self._table = OutputTable()
        self._feeds: dict[int, Feed] = {}  # open sequence -> its stream
        self._next_id = 0
        self._pace = Pace(SystemClock())
        self._listeners: list[EngineListener] = []
        self._history = History()
        # Threads of their own, and two, so that a schema that takes long does not hold up all others.
        self._compilers = ThreadPoolExecutor(2, thread_name_prefix="grammar")
        self._draining = False
        self._works = 0  # that are open: see `work`
        self._all_done: asyncio.Future[None] | None = None

    async def boot(self) -> None:
        """The second half of `start`, for a caller that wants to serve /health (state 'starting') meanwhile.

        After an error, only `close` is left.
        """
        try:
            await self._boot()
        except EngineFailed as error:
            self._supervisor.state, self._supervisor.failure = "failed", error.message
            raise StartupError(error.message) from None
        except StartupError as error:
            self._supervisor.state, self._supervisor.failure = "failed", error.message
            raise

    async def _boot(self) -> None:
        model = self._config.model
        weights = model.load_format != "dummy"
        directory = await asyncio.to_thread(locate, model.model, model.revision, self._report, weights)
        booting = self._supervisor.begin(directory)
        try:
            self.tokenizer, self.defaults = await asyncio.to_thread(load_text, directory, model)
            ready = await booting
        finally:
            if not booting.cancel() and not booting.cancelled():
                booting.exception()  # seen, whatever else went wrong
        limits = Limits(
            max_model_len=ready.max_model_len,
            kv_tokens=ready.num_blocks * ready.block_tokens,
            vocab_size=ready.vocab_size,
            max_logprobs=self._config.server.max_logprobs,
        )
        self._resolver = Resolver(self.tokenizer, self.defaults.eos_token_ids, limits)

    def _report(self, stage: str, share: float) -> None:
        """Progress, from another thread."""
        self._loop.call_soon_threadsafe(self._on_progress, stage, share)

    # --- how it is ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """Only 'ready' takes requests. 'failed' is for good."""
        state = self._supervisor.state
        if state == "failed":
            return state
        if self._draining:
            return "draining"
        return "starting" if self._resolver is None else state

    @property
    def failure(self) -> str | None:
        """Why the state is 'restarting' or 'failed', for people."""
        return self._supervisor.failure

    @property
    def ready(self) -> Ready:
        """What the engine said of itself when it had booted. Not to be asked before."""
        assert self._supervisor.ready is not None, "the engine has not booted"
        return self._supervisor.ready

    @property
    def stats(self) -> EngineStats:
        """The newest snapshot, at most half a second old. Counters start again when the process is restarted."""
        return self._supervisor.stats

    @property
    def restarts(self) -> int:
        """How often the process was started again since `boot`."""
        return self._supervisor.restarts

    @property
    def pid(self) -> int | None:
        """The engine process, while there is one."""
        return self._supervisor.pid

    @property
    def open_sequences(self) -> int:
        """Sequences submitted and not ended."""
        return len(self._feeds)

    def subscribe(self, listener: EngineListener) -> None:
        """Tell `listener` of every step and every end of a sequence, from now on."""
        self._listeners.append(listener)

    async def view(self) -> EngineView:
        """How the engine looks from inside, between two of its steps. Whoever asks meanwhile gets the same answer.

        It comes after the step at hand, however long that takes. Raises EngineUnavailable without a running engine,
        EngineFailed if it dies first.
        """
        if self._supervisor.state != "ready":
            raise EngineUnavailable("the engine does not run", retry_after_s=2.0)
        return await self._supervisor.view()

    def timings(self, request_id: int) -> RequestTimings | None:
        """Of one of the engine's sequences, open or ended lately; None if it is not known (any more)."""
        feed = self._feeds.get(request_id)
        if feed is None:
            return self._history.ended(request_id)
        output = next(output for output in feed.outputs if output.request_id == request_id)
        return timings_of(output, feed.prompt_tokens, time.monotonic())

    def tokens_of(self, timings: RequestTimings) -> list[TokenTime]:
        """When its tokens arrived, oldest first, as far back as steps are remembered."""
        return self._history.tokens_of(timings.request_id, timings.submitted_s)

    # --- requests ----------------------------------------------------------------------------------------------------

    async def compile(self, params: SamplingParams, field: str = "structured_outputs") -> None:
        """Compile what `params` asks the answer to be, in a thread, so that `submit` finds it done.

        Raises RequestError with `field` for what cannot be, and what `submit` raises when the engine takes nothing.
        """
        resolver = self._require_ready()
        if params.structured_outputs is not None:
            await self._loop.run_in_executor(self._compilers, resolver.compile, params.structured_outputs, field)

    def submit(
        self,
        prompt_tokens: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
        is_part: bool = False,
    ) -> Stream:
        """Start a request, at once. `is_part`: of a piece of work (see `work`) that is open.

        Raises RequestError with the offending `field`, ContextLengthExceeded, Overloaded (the queue is full), Draining,
        or EngineUnavailable (starting, restarting, or failed for good).
        """
        resolver = self._require_ready(is_part)
        terms = Terms(now_s=time.monotonic(), priority=priority, timeout_s=timeout_s, cache_salt=cache_salt)
        resolved = resolver.resolve(prompt_tokens, params, terms, self._next_id)
        self._require_room(len(resolved.requests))
        self._next_id += len(resolved.requests)
        feed = Feed(len(prompt_tokens))
        feed.outputs = resolver.outputs(resolved, feed.wake)
        for output in feed.outputs:
            self._table.add(output)
            self._feeds[output.request_id] = feed
        self._supervisor.send(Add(resolved.requests[0], [other.sampling.seed for other in resolved.requests[1:]]))
        self._supervisor.watch()
        return Stream(feed, self._loop, self._abort)

    @contextmanager
    def work(self) -> Iterator[None]:
        """A piece of work that is several requests, one after the other: a drain waits for it and refuses none of them.

        Raises what `submit` raises when the engine takes nothing.
        """
        self._require_ready()
        self._works += 1
        try:
            yield
        finally:
            self._works -= 1
            self._note_done()

    def begin_search(self, prompt_tokens: list[int], params: BeamSearchParams) -> BeamSearch:
        """A beam search, for a caller that submits its beginnings (`step_params`) and tells it what came back.

        Raises RequestError or ContextLengthExceeded, and what `submit` raises when the engine takes nothing.
        """
        return self._require_ready().begin_search(prompt_tokens, params)

    def end_search(self, prompt_tokens: list[int], search: BeamSearch) -> list[Delta]:
        """What a search has found, the best first, each as a delta from its first token to its end."""
        assert self._resolver is not None
        return self._resolver.end_search(prompt_tokens, search)

    def _require_ready(self, is_part: bool = False) -> Resolver:
        state = self.state
        if state == "draining" and is_part:
            state = self._supervisor.state
        if state == "ready" and self._resolver is not None:
            return self._resolver
        if state == "draining":
            raise Draining("the server is shutting down and takes no new requests")
        if state == "failed":
            raise EngineUnavailable(f"the engine has failed: {self.failure}", retry_after_s=60.0)
        if state == "starting":
            raise EngineUnavailable("the engine is starting", retry_after_s=2.0)
        message = f"the engine is starting again, because {self.failure}"
        raise EngineUnavailable(message, retry_after_s=max(1.0, self.ready.boot_s))

    def _require_room(self, count: int) -> None:
        """Refuse sequences that would wait beyond the bound.

        What is open beyond the engine's rows waits for certain. When memory is short fewer run than it has rows: then
        the engine's own figure counts, as far as our count of those that have not run yet bears it out.
        """
        most = self._config.scheduler.max_waiting
        certain = len(self._table) - self.ready.max_running
        reported = min(self.stats.waiting, self._table.waiting)
        if len(self._table) and (certain + count > most or (reported and reported + count > most)):
            message = f"{max(certain, reported)} requests are waiting already, of at most {most}; try again later"
            raise Overloaded(message, retry_after_s=self._pace.refuse())

    # --- what becomes of them ----------------------------------------------------------------------------------------

    def _on_step(self, step: Step) -> None:
        now_s = time.monotonic()
        outcome = self._table.apply(step, now_s)
        self._history.add_step(step.request_ids, now_s)
        if outcome.stopped_ids:
            self._supervisor.send(Abort(outcome.stopped_ids))
        for listener in self._listeners:
            listener.on_step(outcome.ttft_s, outcome.inter_token_s)
        if outcome.ended:
            self._settle(outcome.ended)

    def _abort(self, feed: Feed) -> None:
        """The reader is gone, or wants no more: the engine forgets what is open, and it ends with ABORT."""
        open_outputs = [output for output in feed.outputs if output.request_id in self._feeds]
        for output in open_outputs:
            self._table.forget(output.request_id)
            output.finish(FinishReason.ABORT)
        if open_outputs:
            self._supervisor.send(Abort([output.request_id for output in open_outputs]))
            feed.wake()
            self._settle(open_outputs)

    def _on_death(self, reason: str) -> None:
        """The engine is gone, and with it everything that was open."""
        for feed in dict.fromkeys(self._feeds.values()):
            self._fail(feed, EngineFailed(f"{reason}; nothing was wrong with the request, send it again"))

    def _on_refused(self, refused: Refused) -> None:
        """The scheduler saw more than we did: the whole request fails with its error."""
        feed = self._feeds.get(refused.request_id)
        if feed is not None:
            self._supervisor.send(Abort([output.request_id for output in feed.outputs]))
            self._fail(feed, _as_request_error(refused))

    def _fail(self, feed: Feed, error: TradewindError) -> None:
        lost = [output for output in feed.outputs if output.request_id in self._feeds]
        for output in lost:
            self._table.forget(output.request_id)
        feed.fail(error)
        self._settle(lost)

    def _settle(self, ended: Iterable[SequenceOutput]) -> None:
        """Book sequences that have ended."""
        now_s = time.monotonic()
        for output in ended:
            feed = self._feeds.pop(output.request_id)
            self._pace.completed()
            timings = timings_of(output, feed.prompt_tokens, now_s)
            if timings.finish_reason is None:  # it was lost with its engine
                timings = msgspec.structs.replace(timings, finish_reason=FinishReason.ERROR)
            self._history.add_ended(timings)
            for listener in self._listeners:
                listener.on_finished(timings)
        self._note_done()

    def _note_done(self) -> None:
        """Let a drain know, if nothing is open any more."""
        done = self._all_done
        if done is not None and not self._feeds and not self._works and not done.done():
            done.set_result(None)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new work and wait for the running streams; what still runs after `timeout_s` is aborted.

        Returns whether all of them ended by themselves. Pieces of work (see `work`) count as streams.
        """
        self._draining = True
        if self._feeds or self._works:
            self._all_done = self._loop.create_future()
            await asyncio.wait([self._all_done], timeout=timeout_s)
        left = list(dict.fromkeys(self._feeds.values()))
        for feed in left:
            self._abort(feed)
        return not left and not self._works

    async def close(self) -> None:
        """End the process and remove its temporary folder. Streams still open fail with EngineFailed. Idempotent."""
        self._draining = True
        self._on_death("the engine was closed")
        self._compilers.shutdown(wait=False, cancel_futures=True)
        await self._supervisor.close()


def _as_request_error(refused: Refused) -> TradewindError:
    """The error that the scheduler raised, as one of the same kind."""
    kind = getattr(errors, refused.error, TradewindError)
    if isinstance(kind, type) and issubclass(kind, Overloaded):
        return kind(refused.message, retry_after_s=refused.retry_after_s or 1.0)
    assert isinstance(kind, type)
    assert issubclass(kind, TradewindError), refused
    return kind(refused.message, field=refused.field)
