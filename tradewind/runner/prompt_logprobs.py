"""Log probabilities of prompt tokens, as their positions are computed.

Legend: Q positions of one row, D hidden, V vocabulary, T tokens of the step.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.models.decoder import Model
from tradewind.protocol.plan import StepPlan
from tradewind.protocol.result import PromptLogprobs, TokenLogprobs
from tradewind.runner.sample import LogprobColumns
from tradewind.runner.state import PROMPT_LOGPROBS, StateRows

ROWS_AT_ONCE = 64  # logits of a long prompt's positions would take gigabytes


@dataclass(frozen=True, slots=True)
class PromptColumns:
    """One slot's, on their way to the host: those of the tokens from position `start` on."""

    slot: int
    start: int
    parts: list[LogprobColumns]

    def result(self) -> PromptLogprobs:
        """Only once the device has got that far."""
        rows: list[TokenLogprobs] = [row for part in self.parts for row in part.rows()]
        return PromptLogprobs(self.start, rows)


def prompt_columns(
    plan: StepPlan, starts_R: NDArray[np.int64], hidden_TD: Tensor, state: StateRows, model: Model
) -> list[PromptColumns]:
    """Of the rows that ask for them, for the prompt positions that this step computed (again, after a preemption).

    `starts_R`: each row's first token in the step.
    """
    found: list[PromptColumns] = []
    asking_R = state.flags_S[plan.slots] & PROMPT_LOGPROBS
    if not asking_R.any():
        return found
    for row in np.flatnonzero(asking_R).tolist():
        slot, computed = int(plan.slots[row]), int(plan.computed_tokens[row])
        extras = state.extras[slot]
        # The hidden state at position p says how likely the token at p + 1 was.
        first = computed + 1
        end = min(first + int(plan.new_tokens[row]), extras.prompt_tokens)
        if first < end:
            place = int(starts_R[row])
            hidden_QD = hidden_TD[place : place + end - first]
            tokens_Q = state.tokens_SP[slot, first:end].long()
            count = extras.sampling.prompt_logprobs or 0
            found.append(PromptColumns(slot, first, _columns(hidden_QD, tokens_Q, count, model)))
    return found


def _columns(hidden_QD: Tensor, tokens_Q: Tensor, count: int, model: Model) -> list[LogprobColumns]:
    parts = zip(torch.split(hidden_QD, ROWS_AT_ONCE), torch.split(tokens_Q, ROWS_AT_ONCE), strict=True)
    return [
        LogprobColumns.of(model.logits(hidden.contiguous()).contiguous(), tokens, [count] * len(tokens))
        for hidden, tokens in parts
    ]
