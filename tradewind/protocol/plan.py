"""What one step computes: the scheduler's order to the runner."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.cost import ContextCost
from tradewind.protocol.request import RowSampling

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]
    Bools = NDArray[np.bool_]


NO_ROWS: "Int32s" = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class RowStart:
    """A slot gets a new owner: its state row is written from this, before anything else in the plan happens.

    `tokens`: int32[n], the prompt (and, for a stream resumed elsewhere, what it had said already).
    `prompt_tokens`: how many of them are prompt (the rest counts as output, for penalties and min_tokens).
    """

    slot: int
    tokens: "Int32s"
    prompt_tokens: int
    sampling: RowSampling
    stop_token_ids: tuple[int, ...]  # masked while fewer than sampling.min_tokens are out


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step, in columns. Rows are in a fixed order; row i belongs to `slots[i]`, and no slot appears twice.

    A row computes the tokens at positions [computed_tokens, computed_tokens + new_tokens) of its sequence. Their ids
    are already in the slot's state row on the device: written by a RowStart, or sampled there by an earlier step, whose
    result the scheduler may not have seen yet (run-ahead). A row with `sample` set draws the token that follows its
    last computed position and stores it in its state row. Prefill chunk, decode and recompute are the same thing.

    Block tables are kept by the runner, per slot. `block_slots`, `block_starts`, `block_ids` (int32[A], equal lengths)
    say: block_ids[i] becomes entry block_starts[i] of the table of slot block_slots[i]. Entries only ever grow from 0
    in a slot's life, except that a preempted slot starts again at 0. Block id 0 is an ordinary block.

    `masked` (int32): which of the rows with `sample` set, counted among those, may draw only what a mask allows. If
    there is any, the step is issued in two halves: its forward by `run`, its sampling by `Pending.mask`.
    """

    step: int  # ascending from 0
    slots: "Int32s"
    computed_tokens: "Int32s"
    new_tokens: "Int32s"
    sample: "Bools"
    starts: tuple[RowStart, ...]
    block_slots: "Int32s"
    block_starts: "Int32s"
    block_ids: "Int32s"
    masked: "Int32s" = field(default_factory=lambda: NO_ROWS)

    @property
    def total_tokens(self) -> int:
        """Tokens computed by this step, over all rows."""
        return int(self.new_tokens.sum())


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """What the masked rows of a plan may draw: `bits_MW` (int32, little-endian bits) has a row for each of them.

    Bit t % 32 of word t // 32 is set if token t is allowed. W covers the vocabulary; what is beyond it means nothing.
    """

    bits_MW: "Int32s"


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """What a runner measured of itself at boot; cache and scheduler are built from it."""

    num_blocks: int
    block_tokens: int
    max_model_len: int
    max_running: int  # slots
    step_tokens: int  # the largest sum of new_tokens in one plan
    vocab_size: int
    asynchronous: bool  # `run` returns before the device is done, so run-ahead pays
    device: str  # for people: "cpu (2 threads, avx512_bf16)"
    dtype: str
    weights_bytes: int
    kv_bytes: int
    context_cost: ContextCost = field(default_factory=ContextCost)
    implementations: dict[str, str] = field(default_factory=dict)  # op -> implementation, for `doctor` and logs
