"""The loop that joins scheduler and runner: the only code that sees both columns.

    plan n+1 -> issue n+1 -> wait for result n -> apply result n -> updates for the clients

With a runner that answers later (a GPU), step n+1 is issued before result n is applied, so the device never waits for
the host: run-ahead of one. With one that has the result at once (the CPU), running ahead would only deliver every token
a step late, so each result is applied where it was issued.

A step that raises takes the engine with it: a runner names the rows that failed alone (`StepResult.failed`), so an
exception means that nobody knows which slots, tables and cached blocks hold what they should. The process ends, the
client starts a new one, and requests can be sent again.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tradewind.base.clock import Clock, SystemClock
from tradewind.protocol.messages import Step
from tradewind.protocol.result import EngineStats, Updates
from tradewind.protocol.snapshot import EngineView
from tradewind.runner.boot import boot_runner
from tradewind.scheduler.scheduler import Scheduler

if TYPE_CHECKING:
    from tradewind.config import Config
    from tradewind.protocol.plan import StepPlan
    from tradewind.protocol.request import EngineRequest
    from tradewind.protocol.runner import Pending, Runner

ProgressCall = Callable[[str, float], None]


class Engine:
    """Scheduler and runner, turned by `step`. Not thread-safe: one thread owns it."""

    def __init__(self, scheduler: Scheduler, runner: "Runner", clock: Clock, run_ahead: bool | None = None) -> None:
        """`run_ahead` None: as the runner likes it. It is never more than the runner can do."""
        self.scheduler = scheduler
        self.runner = runner
        self._clock = clock
        self._ahead = 1 if runner.info.asynchronous and run_ahead is not False else 0
        self._in_flight: deque[tuple[Pending, float]] = deque()  # oldest first, with the time of issue
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
        return bool(self._in_flight) or self.scheduler.has_work

    def add(self, request: "EngineRequest") -> None:
        """A new sequence. Raises Overloaded or RequestError when the scheduler does not take it."""
        self.scheduler.add(request)

    def abort(self, request_ids: list[int]) -> None:
        """Forget these sequences; the next plan is without them."""
        self.scheduler.abort(request_ids)

    def step(self) -> list[Updates]:
        """One turn: issue the next step if there is one, and apply results until no more than the run-ahead is open.

        Returns what changed for the clients, oldest first. Raises what the runner raised; the engine is dead then.
        """
        started_s = self._clock.now_s()
        expired = self.scheduler.expire()
        plan = self.scheduler.plan()
        planned_s = self._clock.now_s()
        self._host_s += planned_s - started_s
        updates = [expired]
        if plan is not None:
            self._issue(plan, planned_s)
        allowed = self._ahead if plan is not None else 0
        while len(self._in_flight) > allowed:
            updates.append(self._collect())
        return [update for update in updates if _is_news(update)]

    def _issue(self, plan: "StepPlan", now_s: float) -> None:
        self._steps += 1
        self._in_flight.append((self.runner.run(plan), now_s))

    def _collect(self) -> Updates:
        """Wait for the oldest step and apply it."""
        pending, issued_s = self._in_flight.popleft()
        result = pending.result()
        done_s = self._clock.now_s()
        updates = self.scheduler.apply(result)
        self._host_s += self._clock.now_s() - done_s
        self._device_s += result.device_s or (0.0 if self._ahead else done_s - issued_s)
        return updates

    def settle(self) -> None:
        """Apply what is in flight and drop the news of it. For a caller that has aborted everything."""
        while self._in_flight:
            self._collect()

    def account_host(self, seconds: float) -> None:
        """Add time that the host spent on a step outside `step`: serialising and sending."""
        self._host_s += seconds

    def stats(self) -> EngineStats:
        """The scheduler's figures with the loop's own."""
        times = {"steps": self._steps, "host_s": self._host_s, "device_s": self._device_s}
        return msgspec.structs.replace(self.scheduler.stats(), **times)

    def view(self) -> EngineView:
        """How it looks now. Costs O(blocks), so it is for who asks, not for every step."""
        return self.scheduler.view(self.stats())

    def close(self) -> None:
        """Give the device back."""
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
    return join(boot_runner(directory, config, on_progress), config)


def join(runner: "Runner", config: "Config") -> Engine:
    """An engine around a runner that has booted."""
    clock = SystemClock()
    scheduler = Scheduler(runner.info, config.scheduler, config.cache, clock)
    return Engine(scheduler, runner, clock, config.engine.run_ahead)
