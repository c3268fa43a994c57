"""The second half of a step: from logits to tokens in the state rows, and to what the host is told.

Legend: N rows of logits, V vocabulary, K alternatives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.mask_logits import Masked, MaskLogits
from tradewind.kernels.sample import Sample, SampleRows
from tradewind.kernels.sample.adjust import adjust
from tradewind.kernels.sample.logprobs import top_logprobs
from tradewind.kernels.sample.random import uniforms
from tradewind.protocol.plan import StepPlan, TokenMasks
from tradewind.protocol.result import TokenLogprobs
from tradewind.runner.adjustments import build_adjustments
from tradewind.runner.state import LOGPROBS, StateRows
from tradewind.runner.transfer import to_device, to_host

Int64s = NDArray[np.int64]

_NOBODY: Int64s = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class SampleOps:
    """The ops of the second half."""

    sample: Sample
    mask_logits: MaskLogits


@dataclass(frozen=True, slots=True)
class LogprobColumns:
    """Log probabilities of N positions on their way to the host. `counts[n]`: alternatives that row n asked for."""

    ids_NK1: Tensor
    logprobs_NK1: Tensor
    ranks_N: Tensor
    counts: list[int]

    @classmethod
    def of(cls, logits_NV: Tensor, tokens_N: Tensor, counts: list[int]) -> "LogprobColumns":
        """Of raw logits (float32), for the tokens (int64) chosen there."""
        ids_NK1, logprobs_NK1, ranks_N = top_logprobs(logits_NV, tokens_N, max(counts))
        return cls(to_host(ids_NK1), to_host(logprobs_NK1), to_host(ranks_N), counts)

    def rows(self) -> list[TokenLogprobs]:
        """One for each position; only once the device has got that far."""
        columns = (self.ids_NK1.tolist(), self.logprobs_NK1.tolist(), self.ranks_N.tolist(), self.counts)
        return [
            TokenLogprobs(ids[: count + 1], logprobs[: count + 1], rank)
            for ids, logprobs, rank, count in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tokens on their way to the host: `tokens_N` int64, -1 where the row failed. `asking_N`: who wants logprobs."""

    slots_N: Int64s
    tokens_N: Tensor
    asking_N: Int64s
    logprobs: LogprobColumns | None


# `mask(logits_NV)` forbids, in place, what the masks of some rows do not allow.
Mask = Callable[[Tensor], None]
# `choose(logits_NV)`: tokens_N (int64, -1 where the row failed), stored where the next step reads them.
Choose = Callable[[Tensor], Tensor]


def draw(
    logits_NV: Tensor,
    slots_N: Int64s,
    positions_N: Int64s,
    state: StateRows,
    choose: Choose,
    mask: Mask | None = None,
) -> Drawn:
    """Draw the token at positions_N[n] of each slot, after all that its row asks for.

    `logits_NV` (float32) may be overwritten.
    """
    flags_N = state.flags_S[slots_N]
    is_plain = not flags_N.any()
    asking_N = _NOBODY if is_plain else np.flatnonzero(flags_N & LOGPROBS)
    raw_NV = logits_NV[to_device(asking_N, state.device)] if len(asking_N) else None  # a copy
    if mask is not None:
        mask(logits_NV)
    adjustments = None if is_plain else build_adjustments(state, slots_N, positions_N)
    if adjustments is not None:
        adjust(logits_NV, adjustments)
    tokens_N = choose(logits_NV)
    if is_plain:
        return Drawn(slots_N, to_host(tokens_N), _NOBODY, None)
    valid_N = tokens_N.clamp(min=0)
    if adjustments is not None:
        state.counts.count(slots_N, positions_N, valid_N)
    logprobs = None
    if raw_NV is not None:
        counts = [state.extras[slot].sampling.logprobs or 0 for slot in slots_N[asking_N].tolist()]
        logprobs = LogprobColumns.of(raw_NV, valid_N[to_device(asking_N, state.device)], counts)
    return Drawn(slots_N, to_host(tokens_N), asking_N, logprobs)


def masking(plan: StepPlan, masks: TokenMasks | None, mask_logits: MaskLogits, device: torch.device) -> Mask | None:
    """What applies the masks of a plan's masked rows; None if it has none."""
    if masks is None:
        return None
    assert len(masks.bits_MW) == len(plan.masked), (masks.bits_MW.shape, len(plan.masked))
    masked = Masked(to_device(plan.masked.astype(np.int64), device), to_device(masks.bits_MW, device))
    return lambda logits_NV: mask_logits(logits_NV, masked)


def bits_of_all(plan: StepPlan, masks: TokenMasks, rows: int) -> NDArray[np.int32]:
    """bits_NW of all rows that draw: everything for those that are not masked."""
    assert len(masks.bits_MW) == len(plan.masked), (masks.bits_MW.shape, len(plan.masked))
    if len(plan.masked) == rows:
        return masks.bits_MW
    bits_NW = np.full((rows, masks.bits_MW.shape[1]), -1, np.int32)
    bits_NW[plan.masked] = masks.bits_MW
    return bits_NW


def choosing(slots_N: Int64s, positions_N: Int64s, state: StateRows, sample: Sample) -> Choose:
    """Draws by `sample`."""

    def choose(logits_NV: Tensor) -> Tensor:
        tokens_N = sample(logits_NV, sample_rows(state, slots_N, positions_N))
        # A failed row's sequence ends; but until the host knows, its state row must hold a token.
        state.store(slots_N, positions_N, tokens_N.clamp(min=0))
        return tokens_N

    return choose


def sample_rows(state: StateRows, slots_N: Int64s, positions_N: Int64s) -> SampleRows:
    """The sampling columns of these slots, with their random numbers for these positions."""
    temperature_N = state.temperature_S[slots_N]
    uniforms_N = uniforms(state.keys_S[slots_N], positions_N) if temperature_N.any() else temperature_N
    return SampleRows(temperature_N, state.top_k_S[slots_N], state.top_p_S[slots_N], state.min_p_S[slots_N], uniforms_N)
