"""The real scheduler and cache over a fake device, driven from outside and checked after every operation."""

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from tradewind.base.clock import ManualClock
from tradewind.config import CacheConfig, SchedulerConfig
from tradewind.protocol.cost import ContextCost
from tradewind.protocol.plan import RunnerInfo, StepPlan
from tradewind.protocol.request import EngineRequest, FinishReason, RowSampling
from tradewind.protocol.result import NOTHING_TO_DRAW, Finish, Updates
from tradewind.runner.fake import FakePending, FakeRunner, Faults, alone
from tradewind.scheduler import Scheduler

VOCAB = 23


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large a world is."""

    block_tokens: int = 4
    num_blocks: int = 16
    max_model_len: int = 48
    max_running: int = 6
    step_tokens: int = 16
    policy: str = "fcfs"
    prefix_caching: bool = True
    run_ahead: bool = False
    max_waiting: int = 1000
    context_cost: ContextCost = field(default_factory=ContextCost)

    def info(self) -> RunnerInfo:
        return RunnerInfo(
            num_blocks=self.num_blocks,
            block_tokens=self.block_tokens,
            max_model_len=self.max_model_len,
            max_running=self.max_running,
            step_tokens=self.step_tokens,
            vocab_size=VOCAB,
            asynchronous=self.run_ahead,
            device="fake",
            dtype="none",
            weights_bytes=0,
            kv_bytes=0,
            context_cost=self.context_cost,
        )

    def fits(self, prompt_tokens: int, max_tokens: int) -> bool:
        total = prompt_tokens + max_tokens
        return total <= self.max_model_len and total - 1 <= self.num_blocks * self.block_tokens


def request(request_id: int, prompt: list[int], max_tokens: int = 4, **options: object) -> EngineRequest:
    """A request whose sampling options and own options may be mixed."""
    names = set(RowSampling.__struct_fields__)
    sampling = {name: value for name, value in options.items() if name in names}
    own = {name: value for name, value in options.items() if name not in names}
    sampling.setdefault("seed", request_id)
    return EngineRequest(
        request_id=request_id,
        prompt_tokens=prompt,
        max_tokens=max_tokens,
        sampling=RowSampling(**sampling),  # type: ignore[arg-type]
        **own,  # type: ignore[arg-type]
    )


def row_cost(context: ContextCost, computed: int, tokens: int) -> float:
    """What a row costs, token by token."""
    total = float(tokens)
    for cost, window in context.kinds if tokens else ():
        sees = [position + 1 if window is None else min(position + 1, window) for position in range(computed + tokens)]
        total += cost * max(sum(sees[computed:]), context.least_tokens * sees[computed])
    return total


@lru_cache(maxsize=4096)
def _alone(encoded: bytes) -> tuple[int, ...]:
    return tuple(alone(msgspec.msgpack.decode(encoded, type=EngineRequest), VOCAB))


def expected(wanted: EngineRequest) -> list[int]:
    """What the request gets when it is alone."""
    key = msgspec.structs.replace(wanted, request_id=0, deadline_s=None, arrival_s=0.0, priority=0, cache_salt="")
    return list(_alone(msgspec.msgpack.encode(key)))


@dataclass
class Story:
    """What a client has seen of its request."""

    request: EngineRequest
    tokens: list[int] = field(default_factory=list)
    logprob_tokens: list[int] = field(default_factory=list)
    prompt_positions: list[int] = field(default_factory=list)
    cached_tokens: int | None = None
    finish: Finish | None = None
    is_aborted: bool = False


class World:
    """Everything that the engine loop would join, and a reader of all streams who believes nothing."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.clock = ManualClock(100.0)
        config = SchedulerConfig(policy=shape.policy, max_waiting=shape.max_waiting)  # type: ignore[arg-type]
        cache = CacheConfig(block_tokens=shape.block_tokens, prefix_caching=shape.prefix_caching)
        self.scheduler = Scheduler(shape.info(), config, cache, self.clock)
        self.failures: dict[int, dict[int, str]] = {}
        self.runner = FakeRunner(
            shape.info(), clock=self.clock, sleep=self.clock.advance, faults=Faults(failed_slots=self.failures)
        )
        self.pending: deque[FakePending] = deque()
        self.stories: dict[int, Story] = {}
        self.steps = 0

    def add(self, wanted: EngineRequest) -> None:
        self.scheduler.add(wanted)
        self.stories[wanted.request_id] = Story(wanted)
        self.scheduler.check()

    def abort(self, *request_ids: int) -> None:
        self.scheduler.abort(request_ids)
        for request_id in request_ids:
            if request_id in self.stories:
                self.stories[request_id].is_aborted = True
        self.scheduler.check()

    def expire(self) -> None:
        self.read(self.scheduler.expire())

    def plan(self, failing_row: int | None = None, failure: str = "it broke") -> StepPlan | None:
        """Issue a step, if there is one and it may be issued now."""
        if len(self.pending) > self.shape.run_ahead:
            return None
        plan = self.scheduler.plan()
        self.scheduler.check()
        if plan is None:
            assert self.pending or not self.scheduler.has_work, "nothing in flight, nothing planned, yet work is left"
            return None
        self._verify_cost(plan)
        if failing_row is not None:
            self.failures[plan.step] = {int(plan.slots[failing_row % len(plan.slots)]): failure}
        self.pending.append(self.runner.run(plan))
        self.steps += 1
        return plan

    def _verify_cost(self, plan: StepPlan) -> None:
        """A step costs no more than the first chunk of a prompt, or a quarter more than its decode rows alone; but for
        a block of the first prompt, beside which the others take no more than half of what prompts may."""
        context = self.shape.context_cost
        columns = zip(plan.computed_tokens.tolist(), plan.new_tokens.tolist(), strict=True)
        costs = [row_cost(context, computed, tokens) for computed, tokens in columns]
        chunks = len(self.scheduler._flights[-1].chunks)
        decodes, prompts = costs[: len(costs) - chunks], costs[len(costs) - chunks :]
        most = max(row_cost(context, 0, self.shape.step_tokens) - sum(decodes), sum(decodes) / 4)
        if chunks and sum(prompts) > most + 1e-6:
            assert plan.new_tokens[len(decodes)] <= self.shape.block_tokens, "a chunk costs too much"
            assert sum(prompts[1:]) <= most / 2 + 1e-6, "small chunks cost too much"

    def apply(self) -> bool:
        """Take in the oldest result, if there is one."""
        if not self.pending:
            return False
        self.read(self.scheduler.apply(self.pending.popleft().result()))
        return True

    def turn(self) -> None:
        """What the engine loop does once."""
        if self.plan() is None or len(self.pending) > self.shape.run_ahead:
            self.apply()

    def drain(self) -> None:
        """Run until all is done; every step must bring somebody forward."""
        work = sum(len(s.request.prompt_tokens) + s.request.max_tokens for s in self.stories.values() if not s.finish)
        turns = 0
        while self.scheduler.has_work:
            self.turn()
            turns += 1
            assert turns < 100 + 20 * work, "requests starve"
        self.verify_end()

    def read(self, updates: Updates) -> None:
        self.scheduler.check()
        for admission in updates.admitted:
            story = self.stories[admission.request_id]
            assert story.cached_tokens is None, "admitted twice"
            assert admission.queue_s >= 0
            story.cached_tokens = admission.cached_tokens
        for request_id, logprobs in updates.logprobs.items():
            self.stories[request_id].logprob_tokens.append(logprobs.token_ids[0])
        for request_id, prompt_logprobs in updates.prompt_logprobs.items():
            story = self.stories[request_id]
            positions = range(prompt_logprobs.start, prompt_logprobs.start + len(prompt_logprobs.positions))
            story.prompt_positions += positions
            said = [position.token_ids[0] for position in prompt_logprobs.positions]
            assert said == story.request.prompt_tokens[positions.start : positions.stop]
        for request_id, token in zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True):
            story = self.stories[request_id]
            assert story.finish is None, "a token after the end"
            assert not story.is_aborted, "a token after the abort"
            assert story.cached_tokens is not None, "a token before the admission"
            story.tokens.append(token)
            assert expected(story.request)[: len(story.tokens)] == story.tokens, f"wrong token for {story}"
        for finish in updates.finished:
            self._verify_finish(self.stories[finish.request_id], finish)

    def _verify_finish(self, story: Story, finish: Finish) -> None:
        assert story.finish is None, "finished twice"
        assert not story.is_aborted, "finished after the abort"
        story.finish = finish
        wanted, said = story.request, story.tokens
        if finish.reason is FinishReason.DEADLINE:
            assert wanted.deadline_s is not None
            assert wanted.deadline_s <= self.clock.now_s()
            return
        if finish.reason is FinishReason.ERROR:
            assert finish.message in ("it broke", NOTHING_TO_DRAW)
            return
        if finish.reason is FinishReason.REFUSED:
            assert wanted.forbids_tokens
            assert finish.message == NOTHING_TO_DRAW
            return
        assert said == expected(wanted)
        is_stopped = said[-1] in wanted.stop_token_ids and len(said) > wanted.sampling.min_tokens
        assert finish.reason is (FinishReason.STOP if is_stopped else FinishReason.LENGTH)
        assert finish.stop_token == (said[-1] if is_stopped else None)
        if wanted.sampling.logprobs is not None:
            assert story.logprob_tokens == said
        if wanted.sampling.prompt_logprobs is not None:
            assert story.prompt_positions == list(range(1, len(wanted.prompt_tokens)))

    def verify_end(self) -> None:
        """All is done: every story has its end, every block its place."""
        for story in self.stories.values():
            assert story.is_aborted or story.finish is not None, f"forgotten: {story}"
        self.scheduler.check()
        stats = self.scheduler.stats()
        assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0), stats
