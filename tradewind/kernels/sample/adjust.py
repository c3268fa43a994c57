"""What changes a row's logits before its token is chosen: sparse edits and penalties.

Places are flat: row * V + token. Legend: R rows, V vocabulary, E entries, A rows with allowed tokens, P rows with
penalties, L tokens of history.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Allowed:
    """`rows_A`: rows that may choose from few tokens only. `flat_E`: those tokens' places. Both int64."""

    rows_A: Tensor
    flat_E: Tensor


@dataclass(frozen=True, slots=True)
class Added:
    """`values_E` (float32; -inf forbids) is added at `flat_E` (int64). A place may come more than once."""

    flat_E: Tensor
    values_E: Tensor


@dataclass(frozen=True, slots=True)
class Penalties:
    """Penalties on what was said before.

    `flat_PL`: int64, the places of each row's history, prompt and output; a token may come more than once, always with
    the same count. `counts_PL`: float32, how often it is in the output. `repetition_P1` divides positive logits and
    multiplies negative ones; `frequency_P1` is subtracted per occurrence in the output, `presence_P1` once.
    """

    flat_PL: Tensor
    counts_PL: Tensor
    repetition_P1: Tensor
    frequency_P1: Tensor
    presence_P1: Tensor


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What a step's rows ask for; None where no row does."""

    allowed: Allowed | None = None
    added: Added | None = None
    penalties: Penalties | None = None


def adjust(logits_RV: Tensor, adjustments: Adjustments) -> None:
    """Change `logits_RV` (float32, contiguous) in place: allowed tokens, then what is added, then penalties."""
    flat = logits_RV.view(-1)
    if adjustments.allowed is not None:
        kept_E = flat[adjustments.allowed.flat_E]
        logits_RV.index_fill_(0, adjustments.allowed.rows_A, -torch.inf)
        flat[adjustments.allowed.flat_E] = kept_E
    if adjustments.added is not None:
        flat.index_add_(0, adjustments.added.flat_E, adjustments.added.values_E)
    if adjustments.penalties is not None:
        _penalise(flat, adjustments.penalties)


def _penalise(flat: Tensor, penalties: Penalties) -> None:
    logits_PL = flat[penalties.flat_PL]
    repetition_P1 = penalties.repetition_P1
    logits_PL = torch.where(logits_PL > 0, logits_PL / repetition_P1, logits_PL * repetition_P1)
    logits_PL -= penalties.frequency_P1 * penalties.counts_PL
    logits_PL -= penalties.presence_P1 * (penalties.counts_PL > 0)
    flat[penalties.flat_PL] = logits_PL  # equal places get equal values, so their order does not matter
