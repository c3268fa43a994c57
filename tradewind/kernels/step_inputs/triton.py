"""step_inputs in Triton: a program for each row, and one for the tokens that nobody owns."""

import triton
from triton import language as tl

from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.step_inputs import RowColumns, SlotTables, StepTensors


@triton.jit
def _append(blocks, new_blocks, places, ids, first, last, BLOCK: tl.constexpr):
    """Put new blocks into the tables' entries [first, last)."""
    each = tl.arange(0, BLOCK)
    count = tl.load(new_blocks)
    for i in range(0, count, BLOCK):
        inside = i + each < count
        place = tl.load(places + i + each, mask=inside, other=-1)
        inside = (place >= first) & (place < last)
        tl.store(blocks + place, tl.load(ids + i + each, mask=inside, other=0), mask=inside)


@triton.jit(do_not_specialize=["R", "T", "spare_place"])
def step_inputs_kernel(
    slots, computed, starts, new_blocks, block_places, block_ids, tokens, tokens_stride, blocks, blocks_stride, entries,
    spare_place, ids, positions, write, context_lens, block_tables, table_stride, R, T, S, OVERLAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program r < R does row r; program R fills up from the last row's end to T.

    `entries`: of all tables. Program R puts all new blocks into them, and each other one its own row's, too: these it
    reads.
    """
    release(OVERLAPS)
    begin(OVERLAPS)
    row = tl.program_id(0)
    first = tl.load(starts + row)
    each = tl.arange(0, BLOCK)
    if row == R:
        _append(blocks, new_blocks, block_places, block_ids, 0, entries, BLOCK)
        for i in range(first, T, BLOCK):
            inside = i + each < T
            tl.store(ids + i + each, 0, mask=inside)
            tl.store(positions + i + each, 0, mask=inside)
            tl.store(write + i + each, spare_place.to(tl.int64), mask=inside)
    else:
        count = tl.load(starts + row + 1) - first
        slot = tl.load(slots + row).to(tl.int64)
        done = tl.load(computed + row)
        context = tl.where(count > 0, done + count, 0)
        own_tokens, own_blocks = tokens + slot * tokens_stride, blocks + slot * blocks_stride
        own_first = slot * blocks_stride
        _append(blocks, new_blocks, block_places, block_ids, own_first, own_first + blocks_stride, BLOCK)
        tl.debug_barrier()  # all threads read what one of them has written
        for i in range(0, count, BLOCK):
            inside = i + each < count
            position = done + i + each
            block = tl.load(own_blocks + position // S, mask=inside, other=0).to(tl.int64)
            tl.store(ids + first + i + each, tl.load(own_tokens + position, mask=inside, other=0), mask=inside)
            tl.store(positions + first + i + each, position, mask=inside)
            tl.store(write + first + i + each, block * S + position % S, mask=inside)
        tl.store(context_lens + row, context)
        table = block_tables + row.to(tl.int64) * table_stride
        for i in range(0, (context + S - 1) // S, BLOCK):
            inside = i + each < (context + S - 1) // S
            tl.store(table + i + each, tl.load(own_blocks + i + each, mask=inside, other=0), mask=inside)


class TritonStepInputs:
    """See `tradewind.kernels.step_inputs.StepInputs`."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(self, columns: RowColumns, tables: SlotTables, into: StepTensors) -> None:
        rows, count = into.rows, len(into.rows.context_lens_R)
        step_inputs_kernel[(count + 1,)](
            columns.slots_R, columns.computed_R, columns.starts_R1, columns.blocks_1, columns.block_places_B,
            columns.block_ids_B, tables.tokens_SP, tables.tokens_SP.stride(0), tables.blocks_SM,
            tables.blocks_SM.stride(0), tables.blocks_SM.numel(), tables.spare_place, into.ids_T, rows.positions_T,
            rows.write_T, rows.context_lens_R, rows.block_tables_RM, rows.block_tables_RM.stride(0), count,
            len(into.ids_T), tables.block_tokens, OVERLAPS=self._chip.overlaps, BLOCK=256, num_warps=4,
            **self._chip.launch,
        )  # fmt: skip
