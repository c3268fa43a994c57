"""One device: a model, its KV pool, and the state rows of its slots.

Legend: T tokens of a step, N rows that sample, D hidden, V vocabulary.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tradewind.kernels.pages import KVPool
from tradewind.kernels.sample import Sample
from tradewind.models.decoder import Model
from tradewind.protocol.plan import RunnerInfo, StepPlan
from tradewind.protocol.result import PromptLogprobs, StepResult, TokenLogprobs
from tradewind.runner.batch import Batch, build_batch
from tradewind.runner.prompt_logprobs import PromptColumns, prompt_columns
from tradewind.runner.sample import Drawn, draw
from tradewind.runner.state import StateRows, StateShape
from tradewind.runner.transfer import to_device

_NOT_FINITE = "the model's logits are not finite numbers, or every token is forbidden"


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was over when `run` returned."""

    answer: StepResult

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self.answer


class Issued:
    """A step on a GPU's stream. `finish` reads its answer once the device has got that far."""

    def __init__(self, begun: torch.Event, ended: torch.Event, finish: Callable[[float], StepResult]) -> None:
        self._begun, self._ended, self._finish = begun, ended, finish
        self._answer: StepResult | None = None

    def done(self) -> bool:
        return self._answer is not None or self._ended.query()

    def result(self) -> StepResult:
        if self._answer is None:
            self._ended.synchronize()
            self._answer = self._finish(self._begun.elapsed_time(self._ended) / 1e3)
        return self._answer


class DeviceRunner:
    """Satisfies tradewind.protocol.runner.Runner. On the CPU, `run` returns when the step is done.

    A step's memory is bounded by info.step_tokens and info.max_running; plans must keep to both. `threads`: of the CPU,
    whichever thread calls (None: as torch has it).
    """

    def __init__(
        self, model: Model, pool: KVPool, info: RunnerInfo, sample: Sample, *, threads: int | None = None
    ) -> None:
        self._model = model
        self._pool: KVPool | None = pool
        self._info = info
        self._sample = sample
        self._threads = threads
        shape = StateShape(info.max_running, info.max_model_len, info.block_tokens, info.vocab_size)
        self._state = StateRows(shape, model.device)

    @property
    def info(self) -> RunnerInfo:
        """What was measured at boot."""
        return self._info

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Done | Issued:
        """Issue a step. Errors of the whole step (of its inputs, or for want of memory) are raised here."""
        if self._model.device.type == "cuda":
            return self._issue(plan)
        begun_s = time.perf_counter()
        if self._threads is not None and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # OpenMP keeps the number for each calling thread
        finish = self._compute(plan)
        return Done(finish(time.perf_counter() - begun_s))

    def close(self) -> None:
        """Give the KV pool back. No step may follow."""
        self._pool = None

    def _issue(self, plan: StepPlan) -> Issued:
        begun, ended = (torch.Event(self._model.device, enable_timing=True) for _ in range(2))
        begun.record()
        finish = self._compute(plan)
        ended.record()
        return Issued(begun, ended, finish)

    def _compute(self, plan: StepPlan) -> Callable[[float], StepResult]:
        """Issue all work of the step; what is returned reads the answer, given the device's time."""
        assert self._pool is not None, "the runner is closed"
        state = self._state
        state.begin(plan)
        if not len(plan.slots):
            return lambda device_s: _result(plan.step, None, [], device_s)
        batch = build_batch(plan, state)
        hidden_TD = self._model.forward(batch.ids_T, batch.rows, self._pool)
        prompts = prompt_columns(plan, batch, hidden_TD, state, self._model)
        drawn = self._draw(batch, hidden_TD) if len(batch.slots_N) else None
        return lambda device_s: _result(plan.step, drawn, prompts, device_s)

    def _draw(self, batch: Batch, hidden_TD: Tensor) -> Drawn:
        if batch.last_N is not None:
            hidden_TD = hidden_TD.index_select(0, to_device(batch.last_N, self._model.device))
        logits_NV = self._model.logits(hidden_TD).contiguous()
        return draw(logits_NV, batch.slots_N, batch.positions_N, self._state, self._sample)


def _result(step: int, drawn: Drawn | None, prompts: list[PromptColumns], device_s: float) -> StepResult:
    """The answer to a plan; only once the device has got that far."""
    failed: dict[int, str] = {}
    slots, tokens = np.empty(0, np.int32), np.empty(0, np.int32)
    logprobs: dict[int, TokenLogprobs] | None = None
    if drawn is not None:
        slots, tokens = drawn.slots_N.astype(np.int32), drawn.tokens_N.numpy().astype(np.int32)
        if tokens.min() < 0:
            failed = dict.fromkeys(slots[tokens < 0].tolist(), _NOT_FINITE)
            tokens = np.maximum(tokens, 0)
        if drawn.logprobs is not None:
            logprobs = dict(zip(slots[drawn.asking_N].tolist(), drawn.logprobs.rows(), strict=True))
    prompt_logprobs = {columns.slot: columns.result() for columns in prompts}
    for slot, prompt in prompt_logprobs.items():
        if not _finite(prompt):
            failed[slot] = _NOT_FINITE
    return StepResult(step, slots, tokens, logprobs, prompt_logprobs or None, failed or None, device_s)


def _finite(prompt: PromptLogprobs) -> bool:
    return not any(math.isnan(value) for position in prompt.positions for value in position.logprobs)
