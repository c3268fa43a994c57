"""step_inputs: from a step's row columns to the index tensors that a model reads, on the device.

Everything is written into tensors that keep their place, so that a captured graph finds the next step's inputs where it
found the last one's. What a step does not use is filled up: rows without tokens, and tokens that nobody owns.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick
from tradewind.kernels.rows import Rows


@dataclass(frozen=True)
class SlotTables:
    """What the device keeps of each slot. `tokens_SP`: int32 token ids; `blocks_SM`: int32 block tables.

    `spare_place`: a place of the KV pool that belongs to nobody, for the keys and values of tokens that nobody owns.
    """

    tokens_SP: Tensor
    blocks_SM: Tensor
    block_tokens: int
    spare_place: int


@dataclass(frozen=True)
class RowColumns:
    """One step's rows, int32, contiguous, on the device. Rows past the step's have no tokens.

    `starts_R1`: each row's first token, and at the end the number of tokens. `computed_R`: tokens computed before.
    The slots' tables get blocks_1 new blocks first: `block_ids_B`, at `block_places_B` (int64) of all tables' entries,
    one table after the other.
    """

    slots_R: Tensor
    computed_R: Tensor
    starts_R1: Tensor
    blocks_1: Tensor
    block_places_B: Tensor
    block_ids_B: Tensor


@dataclass(frozen=True)
class StepTensors:
    """What is filled in. `ids_T`: int32 token ids, 0 where nobody owns the token. `rows`: with int32 positions."""

    ids_T: Tensor
    rows: Rows


class StepInputs(Protocol):
    """`step_inputs(columns, tables, into)`: for the first R rows and T tokens, R and T being the lengths in `into`.

    Token i of row r is at position computed_R[r] + i. Entries of `rows.block_tables_RM` past a row's context are left.
    `into.rows.query_starts_R1` must be `columns.starts_R1` itself.
    """

    def __call__(self, columns: RowColumns, tables: SlotTables, into: StepTensors) -> None: ...


def choose(device: Device, prefer: str | None = None) -> Choice[StepInputs]:
    """The implementation for `device`; `prefer` as in `tradewind.kernels.choice.pick`."""
    from tradewind.kernels import gpu
    from tradewind.kernels.step_inputs import reference

    def triton(chip: gpu.Chip) -> StepInputs:
        from tradewind.kernels.step_inputs.triton import TritonStepInputs

        return TritonStepInputs(chip)

    candidates = [
        *gpu.candidates(device, torch.float32, triton, reference.step_inputs),
        Candidate[StepInputs]("reference", reference.step_inputs),
    ]
    return pick(candidates, device, torch.float32, prefer)
