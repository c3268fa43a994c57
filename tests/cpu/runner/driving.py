"""Driving a real runner with the real scheduler, without an engine around them."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tradewind.base.clock import SystemClock
from tradewind.config import CacheConfig, ModelConfig, SchedulerConfig
from tradewind.engine.constraints import Constraints
from tradewind.engine.core import Engine
from tradewind.engine.late_masks import InTurns
from tradewind.grammar.matcher import Vocabulary
from tradewind.grammar.source import HEAD
from tradewind.kernels import mask_logits, sample
from tradewind.kernels.pages import KVPool
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model
from tradewind.protocol.plan import RunnerInfo
from tradewind.protocol.request import EngineRequest, FinishReason, RowGrammar, RowSampling
from tradewind.protocol.result import PromptLogprobs, TokenLogprobs
from tradewind.protocol.runner import Pending, Runner
from tradewind.runner.runner import DeviceRunner
from tradewind.runner.sample import SampleOps
from tradewind.scheduler.scheduler import Scheduler

CPU = torch.device("cpu")
GREEDY = RowSampling(seed=0, temperature=0.0)
CLOCK = SystemClock()


@dataclass(frozen=True)
class Limits:
    """What a test gives a runner."""

    num_blocks: int = 200
    block_tokens: int = 8
    max_model_len: int = 256
    max_running: int = 32
    step_tokens: int = 512


@dataclass
class Heard:
    """What one request was told."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[PromptLogprobs] = field(default_factory=list)
    reason: FinishReason | None = None
    message: str = ""


def load(directory: Path) -> Model:
    return load_model(directory, ModelConfig(model=str(directory)))


def make_runner(model: Model, limits: Limits = Limits(), draw: sample.Sample | None = None) -> DeviceRunner:
    """Its KV pool is full of NaN: what was not written must not be read. `draw`: how it samples (None: as chosen)."""
    shape = model.spec.pool_shape(limits.num_blocks, limits.block_tokens)
    pool = KVPool(torch.full(shape.as_tuple(model.spec.dtype), torch.nan, dtype=model.spec.dtype))
    info = RunnerInfo(
        num_blocks=limits.num_blocks,
        block_tokens=limits.block_tokens,
        max_model_len=limits.max_model_len,
        max_running=limits.max_running,
        step_tokens=limits.step_tokens,
        vocab_size=model.spec.vocab,
        asynchronous=False,
        device="cpu",
        dtype=str(model.spec.dtype),
        weights_bytes=0,
        kv_bytes=pool.nbytes,
    )
    return DeviceRunner(model, pool, info, SampleOps(draw or sample.choose(CPU).run, mask_logits.choose(CPU).run))


class Session:
    """One scheduler on one runner. With `run_ahead` each step is issued before the last one's result is seen."""

    def __init__(self, runner: Runner, *, run_ahead: bool = False, prefix_caching: bool = True) -> None:
        self._runner = runner
        cache = CacheConfig(block_tokens=runner.info.block_tokens, prefix_caching=prefix_caching)
        self.scheduler = Scheduler(runner.info, SchedulerConfig(), cache, CLOCK)
        self._ahead = 2 if run_ahead else 1
        self._flying: deque[Pending] = deque()
        self.heard: dict[int, Heard] = {}

    def add(self, requests: Iterable[EngineRequest]) -> None:
        for request in requests:
            self.heard[request.request_id] = Heard()
            self.scheduler.add(request)

    def step(self) -> None:
        """Issue what can be issued, then take one result."""
        while len(self._flying) < self._ahead and (plan := self.scheduler.plan()) is not None:
            self._flying.append(self._runner.run(plan))
        updates = self.scheduler.apply(self._flying.popleft().result())
        for request_id, token in zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True):
            self.heard[request_id].tokens.append(token)
        for request_id, logprobs in updates.logprobs.items():
            self.heard[request_id].logprobs.append(logprobs)
        for request_id, prompt in updates.prompt_logprobs.items():
            self.heard[request_id].prompt_logprobs.append(prompt)
        for finish in updates.finished:
            self.heard[finish.request_id].reason = finish.reason
            self.heard[finish.request_id].message = finish.message

    def finish(self) -> dict[int, Heard]:
        """Step until nothing is left to do."""
        while self.scheduler.has_work:
            self.step()
        self.scheduler.check()
        return self.heard

    def tokens(self, requests: Iterable[EngineRequest]) -> dict[int, list[int]]:
        """Run these to their ends: tokens by request id."""
        self.add(requests)
        return {request_id: heard.tokens for request_id, heard in self.finish().items()}


def constrained_tokens(runner: Runner, requests: Iterable[EngineRequest]) -> dict[int, list[int]]:
    """Run these to their ends in an engine, grammars and all: tokens by request id."""
    scheduler = Scheduler(runner.info, SchedulerConfig(), CacheConfig(block_tokens=runner.info.block_tokens), CLOCK)
    engine = Engine(
        scheduler,
        runner,
        CLOCK,
        constraints=Constraints(lambda: vocabulary(runner.info.vocab_size), InTurns(), runner.info.vocab_size),
    )
    tokens: dict[int, list[int]] = {}
    for one in requests:
        tokens[one.request_id] = []
        engine.add(one)
    while engine.has_work:
        for updates in engine.step():
            for request_id, token in zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True):
                tokens[request_id].append(token)
    scheduler.check()
    return tokens


def vocabulary(size: int) -> Vocabulary:
    """Of ASCII and pairs of letters; the last token ends a sequence."""
    pairs = [bytes([97 + index // 16, 97 + index % 16]) for index in range(size - 129)]
    return Vocabulary([*(bytes([byte]) for byte in range(128)), *pairs, b"<eos>"], [size - 1], [size - 1])


def request(
    request_id: int, prompt: list[int], max_tokens: int = 64, sampling: RowSampling = GREEDY, **more: object
) -> EngineRequest:
    return EngineRequest(request_id=request_id, prompt_tokens=prompt, sampling=sampling, max_tokens=max_tokens, **more)


def masked_requests(vocab: int) -> list[EngineRequest]:
    """Of all kinds of sampling; every other one may say words only. For `constrained_tokens`."""
    words = RowGrammar(HEAD + "start: /[a-z]+(-[a-z]+){3}/")
    settings = [
        GREEDY,
        RowSampling(seed=2, temperature=1.0),
        RowSampling(seed=3, temperature=0.8, top_p=0.9, top_k=20),
        RowSampling(seed=5, temperature=1.2, min_p=0.05),
        RowSampling(seed=4, temperature=0.0, repetition_penalty=1.3, presence_penalty=0.5),
    ]
    return [
        request(
            index,
            [1 + index, 2, *range(3, 3 + 7 * index)],
            4 + index * 5 % 23,
            settings[index % len(settings)],
            grammar=words if index % 2 else None,
            stop_token_ids=[vocab - 1],
        )
        for index in range(15)
    ]
