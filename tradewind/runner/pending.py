"""Steps that have been issued, and what becomes of them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tradewind.protocol.plan import TokenMasks
from tradewind.protocol.result import NOTHING_TO_DRAW, PromptLogprobs, StepResult, TokenLogprobs
from tradewind.runner.prompt_logprobs import PromptColumns
from tradewind.runner.sample import Drawn

Finish = Callable[[float], StepResult]  # reads a step's answer, given the device's time, once it has got that far
SecondHalf = Callable[[TokenMasks | None], Finish]  # issues a step's sampling

_NOT_FINITE = "the model's logits are not finite numbers"


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was over when `run` returned."""

    answer: StepResult

    def mask(self, masks: TokenMasks) -> None:
        raise AssertionError(f"no row of this step waits for a mask: {masks}")

    def done(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self.answer


class Halved:
    """A step on the CPU whose forward is done, after `forward_s`, and whose sampling waits for masks."""

    def __init__(self, sample: SecondHalf, forward_s: float) -> None:
        self._sample, self._forward_s = sample, forward_s
        self._answer: StepResult | None = None

    @classmethod
    def failed(cls, answer: StepResult) -> "Halved":
        """A step whose forward failed, for all its rows: masks change nothing."""
        return cls(lambda _masks: lambda _device_s: answer, 0.0)

    @torch.inference_mode()
    def mask(self, masks: TokenMasks) -> None:
        begun_s = time.perf_counter()
        finish = self._sample(masks)
        self._answer = finish(self._forward_s + time.perf_counter() - begun_s)

    def done(self) -> bool:
        return self._answer is not None

    def result(self) -> StepResult:
        assert self._answer is not None, "the step waits for its masks"
        return self._answer


class Issued:
    """A step on a GPU's stream: its forward, and what `sample` issues then, at once or when the masks are there.

    `begun` was recorded before the forward, or when the step before was over; `ended` is recorded here.
    """

    def __init__(self, begun: torch.Event, ended: torch.Event, sample: SecondHalf) -> None:
        self.ended = ended
        self._begun, self._sample = begun, sample
        self._finish: Finish | None = None
        self._answer: StepResult | None = None

    @torch.inference_mode()
    def mask(self, masks: TokenMasks | None) -> None:
        self._finish = self._sample(masks)
        self.ended.record()

    def done(self) -> bool:
        return self._answer is not None or (self._finish is not None and self.ended.query())

    @property
    def is_under_way(self) -> bool:
        """All of it has been issued, and it is not over."""
        return self._answer is None and self._finish is not None and not self.ended.query()

    def result(self) -> StepResult:
        if self._answer is None:
            assert self._finish is not None, "the step waits for its masks"
            self.ended.synchronize()
            self._answer = self._finish(self._begun.elapsed_time(self.ended) / 1e3)
        return self._answer


def result_of(step: int, drawn: Drawn | None, prompts: list[PromptColumns], device_s: float) -> StepResult:
    """The answer to a plan; only once the device has got that far."""
    failed: dict[int, str] = {}
    slots, tokens = np.empty(0, np.int32), np.empty(0, np.int32)
    logprobs: dict[int, TokenLogprobs] | None = None
    if drawn is not None:
        slots, tokens = drawn.slots_N.astype(np.int32), drawn.tokens_N.numpy().astype(np.int32)
        if tokens.min() < 0:
            failed = dict.fromkeys(slots[tokens < 0].tolist(), NOTHING_TO_DRAW)
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
