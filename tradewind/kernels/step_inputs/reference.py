"""step_inputs in plain torch, row by row: the truth."""

from tradewind.kernels.step_inputs import RowColumns, SlotTables, StepTensors


def step_inputs(columns: RowColumns, tables: SlotTables, into: StepTensors) -> None:
    """See `tradewind.kernels.step_inputs.StepInputs`."""
    starts, blocks = columns.starts_R1.tolist(), int(columns.blocks_1)
    tables.blocks_SM.view(-1)[columns.block_places_B[:blocks]] = columns.block_ids_B[:blocks]
    into.ids_T.zero_()
    into.rows.positions_T.zero_()
    into.rows.write_T.fill_(tables.spare_place)
    into.rows.context_lens_R.zero_()
    for row in range(len(into.rows.context_lens_R)):
        begin, end = starts[row], starts[row + 1]
        if begin == end:
            continue
        slot, first = int(columns.slots_R[row]), int(columns.computed_R[row])
        context = first + end - begin
        blocks_M = tables.blocks_SM[slot]
        positions = into.rows.positions_T[begin:end].copy_(columns.starts_R1.new_tensor(range(first, context))).long()
        into.ids_T[begin:end] = tables.tokens_SP[slot, first:context]
        into.rows.write_T[begin:end] = blocks_M[positions // tables.block_tokens].long() * tables.block_tokens
        into.rows.write_T[begin:end] += positions % tables.block_tokens
        into.rows.context_lens_R[row] = context
        used = -(-context // tables.block_tokens)
        into.rows.block_tables_RM[row, :used] = blocks_M[:used]
