"""What the runner keeps of each slot: fixed rows, written when a slot gets a new owner.

The newest token of a sequence lives here and nowhere else until its step's result has been seen, so the next step can
be issued before. Token ids are on the device; block tables and sampling columns are on the host, which is told them in
the plan and prepares index tensors from them. Only what few requests ask for is kept per slot in objects (`Extras`).

Legend: S slots, P places of a token row, M blocks of a table.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.sample import LEAST_TEMPERATURE
from tradewind.kernels.sample.random import stream_keys
from tradewind.protocol.plan import RowStart, StepPlan
from tradewind.protocol.request import RowSampling
from tradewind.runner.counts import OutputCounts
from tradewind.runner.extras import Extras
from tradewind.runner.transfer import to_device

# What a slot's row asks for beyond temperature and filters: bits of `flags_S`.
ADJUSTED = 1  # allowed tokens, biases, masks or penalties
LOGPROBS = 2
PROMPT_LOGPROBS = 4


@dataclass(frozen=True, slots=True)
class StateShape:
    """`slots` sequences of up to `max_model_len` tokens in blocks of `block_tokens`; `vocab` token ids."""

    slots: int
    max_model_len: int
    block_tokens: int
    vocab: int

    @property
    def max_blocks(self) -> int:
        return -(-self.max_model_len // self.block_tokens)

    @property
    def places(self) -> int:
        """Of a token row: one more than the longest sequence, for the token drawn at its very end."""
        return self.max_model_len + 1


class StateRows:
    """The rows of all slots. Big tables are of uninitialised memory: what no sequence reaches costs nothing."""

    def __init__(self, shape: StateShape, device: torch.device) -> None:
        self.shape = shape
        self.device = device
        self.tokens_SP = torch.empty(shape.slots, shape.places, dtype=torch.int32, device=device)
        self.tokens_flat = self.tokens_SP.view(-1)
        self.tables_SM = np.empty((shape.slots, shape.max_blocks), np.int32)
        self.keys_S = np.zeros(shape.slots, np.uint64)
        self.temperature_S = np.zeros(shape.slots)
        self.top_k_S = np.zeros(shape.slots, np.int64)
        self.top_p_S = np.ones(shape.slots)
        self.min_p_S = np.zeros(shape.slots)
        self.flags_S = np.zeros(shape.slots, np.uint8)
        self.extras: dict[int, Extras] = {}
        self.counts = OutputCounts(shape.vocab, device)

    def begin(self, plan: StepPlan) -> list[int]:
        """Take over what the plan brings: new owners first, then blocks.

        Returns the slots whose new owners ask for more than a GPU's memory has room for. They can be computed like all
        others, but what they say is of no use.
        """
        refused = [start.slot for start in plan.starts if not self._start(start)]
        if len(plan.block_slots):
            self.tables_SM[plan.block_slots, plan.block_starts] = plan.block_ids
        return refused

    def store(self, slots: NDArray[np.int64], positions: NDArray[np.int64], tokens: Tensor) -> None:
        """Put drawn tokens (int64 [n], on the device) into their rows."""
        places = to_device(slots * self.shape.places + positions, self.device)
        self.tokens_flat.index_copy_(0, places, tokens.int())

    def _start(self, start: RowStart) -> bool:
        """False if memory does not suffice."""
        slot, sampling = start.slot, start.sampling
        self.keys_S[slot] = stream_keys(np.array([sampling.seed], np.uint64))[0]
        self.temperature_S[slot] = sampling.temperature if sampling.temperature >= LEAST_TEMPERATURE else 0.0
        self.top_k_S[slot] = max(sampling.top_k, 0)
        self.top_p_S[slot] = sampling.top_p
        self.min_p_S[slot] = sampling.min_p
        self.flags_S[slot] = flags_of(sampling)
        self.extras.pop(slot, None)
        self.counts.drop(slot)
        try:
            self._place(start)
        except torch.OutOfMemoryError:
            self.flags_S[slot] = 0
            self.tokens_SP[slot].zero_()  # whatever is there must be tokens
            return False
        return True

    def _place(self, start: RowStart) -> None:
        """What of a new owner is on the device."""
        slot, tokens_P = start.slot, self.tokens_SP[start.slot, : len(start.tokens)]
        tokens_P.copy_(to_device(start.tokens.astype(np.int32), self.device))
        if self.flags_S[slot]:
            extras = self.extras[slot] = Extras.of(start, self.shape.vocab, self.device)
            if extras.counted:
                self.counts.begin(slot, tokens_P, start.prompt_tokens)


def flags_of(sampling: RowSampling) -> int:
    """Which rarer things a row asks for, as bits."""
    adjusted = (
        sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
        or sampling.repetition_penalty != 1
        or bool(sampling.logit_bias)
        or sampling.allowed_token_ids is not None
        or bool(sampling.bad_word_ids)
        or sampling.min_tokens > 0
    )
    return (
        (ADJUSTED if adjusted else 0)
        | (LOGPROBS if sampling.logprobs is not None else 0)
        | (PROMPT_LOGPROBS if sampling.prompt_logprobs is not None else 0)
    )
