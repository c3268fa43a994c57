"""The loop that joins scheduler and runner: the only code that sees both columns.

    plan n+1 -> issue n+1 -> wait for result n -> apply result n -> updates for the clients

With a runner that answers later (a GPU), step n+1 is issued before result n is applied, so the device never waits for
the host: run-ahead of one. With one that has the result at once (the CPU), running ahead would only deliver every token
a step late, so each result is applied where it was issued.

A step with rows that a grammar constrains is issued in two halves. Its sampling needs masks, and those need the tokens
of the step before: so the second half is issued once that step has been applied, while the device computes the forward.
Where `run` itself computes the forward (the CPU), they come before it: beside it they would take its cores from it, and
after it the matchers, which took in those tokens just now, would have left the processor's caches.

A step that raises takes the engine with it: a runner names the rows that failed alone (`StepResult.failed`), so an
exception means that nobody knows which slots, tables and cached blocks hold what they should. The process ends, the
client starts a new one, and requests can be sent again.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tradewind.base.clock import Clock, SystemClock
from tradewind.base.errors import RequestError, TradewindError
from tradewind.engine.constraints import Constraints
from tradewind.engine.late_masks import InThreads, InTurns
from tradewind.engine.model_files import load_text
from tradewind.protocol.messages import Step
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import EngineStats, Finish, Updates
from tradewind.protocol.snapshot import EngineView
from tradewind.runner.boot import boot_runner
from tradewind.runner.machine import usable_cpus
from tradewind.scheduler.scheduler import Scheduler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tradewind.config import Config, ModelConfig
    from tradewind.grammar.matcher import Vocabulary
    from tradewind.protocol.plan import StepPlan, TokenMasks
    from tradewind.protocol.request import EngineRequest
    from tradewind.protocol.runner import Pending, Runner

ProgressCall = Callable[[str, float], None]


_MASK_THREADS = 8  # at most
_BUILD_WAIT_S = 0.01  # with nothing else to do, how long to wait for a grammar or a mask before looking for news


@dataclass(slots=True)
class InFlight:
    """A step that was issued. `masked_ids`: the sequences of its masked rows, until its second half is issued."""

    pending: "Pending"
    issued_s: float
    masked_ids: "NDArray[np.int64] | None" = None


class Engine:
    """Scheduler and runner, turned by `step`. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: "Runner",
        clock: Clock,
        run_ahead: bool | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        """`run_ahead` None: as the runner likes it. It is never more than the runner can do.

        Without `constraints`, no request may have a grammar.
        """
        self.scheduler = scheduler
        self.runner = runner
        self._clock = clock
        self._ahead = 1 if runner.info.asynchronous and run_ahead is not False else 0
        self._constraints = constraints
        self._in_flight: deque[InFlight] = deque()  # oldest first
        self._steps = 0
        self._host_s = 0.0
        self._device_s = 0.0

    @property
    def max_running(self) -> int:
        """The most sequences that run at once: the runner's rows, or fewer if the settings say so."""
        return self.scheduler.max_running

    @property
    def has_work(self) -> bool:
        """Whether a `step` may do something."""
        return bool(self._in_flight) or self.scheduler.has_work or self._is_building

    def add(self, request: "EngineRequest") -> None:
        """A new sequence. Raises Overloaded or RequestError when the scheduler does not take it.

        One with a grammar is given to the scheduler when that has been built.
        """
        if request.grammar is None:
            self.scheduler.add(request)
        elif self._constraints is None:
            raise RequestError("this engine has no tokenizer, which structured output needs", field="grammar")
        elif request.grammar.text is None:
            self.scheduler.add(request)
            self._constraints.open(request)
        else:
            self._constraints.begin(request)

    def abort(self, request_ids: list[int]) -> None:
        """Forget these sequences; the next plan is without them."""
        self.scheduler.abort(request_ids)
        if self._constraints is not None:
            self._constraints.forget(request_ids)

    def step(self) -> list[Updates]:
        """One turn: issue the next step if there is one, and apply results until no more than the run-ahead is open.

        Returns what changed for the clients, oldest first. Raises what the runner raised; the engine is dead then.
        """
        started_s = self._clock.now_s()
        expired = self.scheduler.expire()
        if self._constraints is not None:
            self._constraints.forget([finish.request_id for finish in expired.finished])
        if self._is_building:
            self._add_built(expired)
        if self._is_preparing:
            assert self._constraints is not None
            self.scheduler.hold(self._constraints.prepared(), is_held=False)
        plan = self.scheduler.plan()
        planned_s = self._clock.now_s()
        self._host_s += planned_s - started_s
        updates = [expired]
        if plan is not None:
            self._issue(plan, planned_s)
        elif (self._is_building or self._is_preparing) and not self._in_flight:
            self._wait_for_grammar()
        allowed = self._ahead if plan is not None else 0
        while len(self._in_flight) > allowed:
            updates.append(self._collect())
        self._mask_oldest()
        return [update for update in updates if _is_news(update)]

    def _issue(self, plan: "StepPlan", now_s: float) -> None:
        self._steps += 1
        masked_ids = self.scheduler.masked_ids() if len(plan.masked) else None
        if masked_ids is None or self.runner.info.asynchronous:
            self._in_flight.append(InFlight(self.runner.run(plan), now_s, masked_ids))
            return
        masks = self._masks(masked_ids)
        pending = self.runner.run(plan)
        pending.mask(masks)
        self._in_flight.append(InFlight(pending, now_s))

    def _mask_oldest(self) -> None:
        """Issue the second half of the oldest step in flight, if it waits for masks: all tokens before are known."""
        if not self._in_flight:
            return
        oldest = self._in_flight[0]
        if oldest.masked_ids is None:
            return
        oldest.pending.mask(self._masks(oldest.masked_ids))
        oldest.masked_ids = None

    def _masks(self, masked_ids: "NDArray[np.int64]") -> "TokenMasks":
        """The masks of the newest plan's masked rows. Those whose next ones will be late are held from now on."""
        assert self._constraints is not None
        masks, late_ids = self._constraints.masks(masked_ids)
        self.scheduler.hold(late_ids)
        return masks

    def _collect(self) -> Updates:
        """Wait for the oldest step and apply it."""
        self._mask_oldest()
        oldest = self._in_flight.popleft()
        result = oldest.pending.result()
        done_s = self._clock.now_s()
        updates = self.scheduler.apply(result)
        if self._constraints is not None:
            self.scheduler.conclude(self._constraints.advance(updates), updates)
            for is_masked, request_ids in self._constraints.turned():
                self.scheduler.mask(request_ids, is_masked=is_masked)
        self._host_s += self._clock.now_s() - done_s
        self._device_s += result.device_s or (0.0 if self._ahead else done_s - oldest.issued_s)
        return updates

    # --- grammars ----------------------------------------------------------------------------------------------------

    @property
    def _is_building(self) -> bool:
        return self._constraints is not None and self._constraints.is_building

    @property
    def _is_preparing(self) -> bool:
        return self._constraints is not None and self._constraints.is_preparing

    def _add_built(self, updates: Updates) -> None:
        """Give the scheduler the sequences whose grammar has been built; say in `updates` who cannot run."""
        assert self._constraints is not None
        runnable, finishes = self._constraints.ready()
        updates.finished += finishes
        for request in runnable:
            try:
                self.scheduler.add(request)
            except TradewindError as error:
                self._constraints.forget([request.request_id])
                updates.finished.append(Finish(request.request_id, FinishReason.ERROR, message=error.message))

    def _wait_for_grammar(self) -> None:
        assert self._constraints is not None
        self._constraints.wait(_BUILD_WAIT_S)

    def tidy(self) -> bool:
        """While there is no work: check who owns the cache's blocks, and what else can wait. Whether more is left."""
        self.scheduler.check()
        return self.runner.tidy()

    def settle(self) -> None:
        """Apply what is in flight and drop the news of it. For a caller that has aborted everything."""
        while self._in_flight:
            self._collect()

    def account_host(self, seconds: float) -> None:
        """Add time that the host spent on a step outside `step`: serialising and sending."""
        self._host_s += seconds

    def stats(self) -> EngineStats:
        """The scheduler's figures with the loop's own."""
        own = {
            "steps": self._steps,
            "host_s": self._host_s,
            "device_s": self._device_s,
            "compiled_kernels": self.runner.compiled_kernels,
            "eager_steps": self.runner.eager_steps,
        }
        return msgspec.structs.replace(self.scheduler.stats(), **own)

    def view(self) -> EngineView:
        """How it looks now. Costs O(blocks), so it is for who asks, not for every step."""
        return self.scheduler.view(self.stats())

    def close(self) -> None:
        """Give the device back."""
        if self._constraints is not None:
            self._constraints.close()
        self.runner.close()


def _is_news(updates: Updates) -> bool:
    return bool(
        len(updates.request_ids) or updates.finished or updates.admitted or updates.logprobs or updates.prompt_logprobs
    )


def to_message(updates: Updates) -> Step:
    """A step's updates as they cross to the client."""
    return Step(
        request_ids=updates.request_ids.tobytes(),
        tokens=updates.tokens.tobytes(),
        finished=updates.finished,
        admitted=updates.admitted,
        logprobs=updates.logprobs,
        prompt_logprobs=updates.prompt_logprobs,
    )


def build_engine(directory: Path, config: "Config", on_progress: ProgressCall) -> Engine:
    """Boot in the order in which things are known: the runner measures, then cache and scheduler are built from it.

    `directory` holds the model's files. Raises StartupError (or one of its kinds).
    """
    runner = boot_runner(directory, config, on_progress)
    vocab_size = runner.info.vocab_size
    # Where the device is the CPU itself, a second thread for masks would wait behind those of the forward.
    mask_threads = min(usable_cpus(), _MASK_THREADS) if runner.info.asynchronous else 1
    load = partial(load_vocabulary, directory, config.model, vocab_size, mask_threads)
    return join(runner, config, Constraints(load, InThreads() if runner.info.asynchronous else InTurns(), vocab_size))


def join(runner: "Runner", config: "Config", constraints: Constraints | None = None) -> Engine:
    """An engine around a runner that has booted."""
    clock = SystemClock()
    scheduler = Scheduler(runner.info, config.scheduler, config.cache, clock)
    return Engine(scheduler, runner, clock, config.engine.run_ahead, constraints)


def load_vocabulary(directory: Path, config: "ModelConfig", vocab_size: int, mask_threads: int = 1) -> "Vocabulary":
    """The model's tokens for grammars. `vocab_size`: of its logits, which may be more than the tokenizer knows."""
    from tradewind.grammar.matcher import Vocabulary  # here: most engines never need it

    tokenizer, defaults = load_text(directory, config)
    tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
    special_ids = [token for token in tokenizer.special_ids if token < vocab_size]
    eos_ids = sorted(token for token in defaults.eos_token_ids if token < vocab_size)
    return Vocabulary(tokens, special_ids, eos_ids, mask_threads)
