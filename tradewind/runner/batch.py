"""From a plan's columns to the index tensors that a model's forward reads.

All of it is array arithmetic: a steady decode of a thousand rows runs through the same few operations as one of a
single row. Legend: T tokens, R rows, N rows that sample, M blocks of a table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.rows import Rows
from tradewind.protocol.plan import StepPlan
from tradewind.runner.state import StateRows
from tradewind.runner.transfer import to_device

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's inputs.

    `ids_T`: token ids, read from the state rows. `starts_R`: each row's first token. `last_N`: the last token of each
    row that samples, or None where that is every token in order. `slots_N`, `positions_N`: where drawn tokens go.
    """

    ids_T: Tensor
    rows: Rows
    starts_R: Int64s
    last_N: Int64s | None
    slots_N: Int64s
    positions_N: Int64s


def build_batch(plan: StepPlan, state: StateRows) -> Batch:
    """`state` must have taken over what the plan brings. At least one row."""
    slots_R = plan.slots.astype(np.int64)
    contexts_R = plan.computed_tokens.astype(np.int64) + plan.new_tokens
    ends_R = np.cumsum(plan.new_tokens, dtype=np.int64)
    starts_R = ends_R - plan.new_tokens
    total, max_query = int(ends_R[-1]), int(plan.new_tokens.max())
    if max_query == 1:
        slots_T, positions_T = slots_R, contexts_R - 1
    else:
        slots_T = np.repeat(slots_R, plan.new_tokens)
        positions_T = np.arange(total) + np.repeat(contexts_R - ends_R, plan.new_tokens)
    sampled_N = np.flatnonzero(plan.sample)
    every_row = len(sampled_N) == len(slots_R)
    return Batch(
        ids_T=_ids(slots_T, positions_T, state),
        rows=_rows(plan, state, contexts_R, slots_T, positions_T, max_query),
        starts_R=starts_R,
        last_N=None if every_row and max_query == 1 else ends_R[sampled_N] - 1,
        slots_N=slots_R if every_row else slots_R[sampled_N],
        positions_N=contexts_R if every_row else contexts_R[sampled_N],
    )


def _ids(slots_T: Int64s, positions_T: Int64s, state: StateRows) -> Tensor:
    places_T = to_device(slots_T * state.shape.places + positions_T, state.device)
    return state.tokens_flat.index_select(0, places_T)


def _rows(
    plan: StepPlan, state: StateRows, contexts_R: Int64s, slots_T: Int64s, positions_T: Int64s, max_query: int
) -> Rows:
    block_tokens, device = state.shape.block_tokens, state.device
    blocks_T = positions_T // block_tokens
    write_T = state.tables_SM[slots_T, blocks_T].astype(np.int64) * block_tokens + positions_T % block_tokens
    max_context = int(contexts_R.max())
    starts_R1 = np.zeros(len(contexts_R) + 1, np.int32)
    np.cumsum(plan.new_tokens, out=starts_R1[1:])
    tables_RM = state.tables_SM[plan.slots, : -(-max_context // block_tokens)]
    return Rows(
        positions_T=to_device(positions_T, device),
        write_T=to_device(write_T, device),
        query_starts_R1=to_device(starts_R1, device),
        context_lens_R=to_device(contexts_R.astype(np.int32), device),
        block_tables_RM=to_device(tables_RM, device),
        max_query=max_query,
        max_context=max_context,
    )
