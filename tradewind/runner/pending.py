"""Steps that have been issued, and what becomes of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tradewind.protocol.result import PromptLogprobs, StepResult, TokenLogprobs
from tradewind.runner.prompt_logprobs import PromptColumns
from tradewind.runner.sample import Drawn

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


def result_of(step: int, drawn: Drawn | None, prompts: list[PromptColumns], device_s: float) -> StepResult:
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
