"""The scheduler's part of a snapshot. Reads the books, changes nothing."""

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import (
    CACHED,
    FREE,
    MAX_ROWS,
    MAX_RUNS,
    SHARED,
    BlockMap,
    EngineView,
    RowState,
    RowView,
)
from tradewind.scheduler.residents import Residents
from tradewind.scheduler.rows import Rows
from tradewind.scheduler.sequence import NO_SLOT, Sequence, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]


def look(residents: Residents, live: Mapping[int, Sequence], stats: EngineStats, now_s: float) -> EngineView:
    """`residents` and `live` (every sequence that has not ended, by arrival) as they are now."""
    seated = [sequence for sequence in residents.by_slot if sequence is not None]
    rows = [_row(sequence, residents.rows, now_s) for sequence in seated[:MAX_ROWS]]
    others = (sequence for sequence in live.values() if sequence.slot == NO_SLOT)
    rows += [_row(sequence, residents.rows, now_s) for sequence in islice(others, MAX_ROWS - len(rows))]
    return EngineView(stats=stats, rows=rows, blocks=compress(_owners(residents)))


def _row(sequence: Sequence, rows: Rows, now_s: float) -> RowView:
    has_slot = sequence.slot != NO_SLOT
    computed = int(rows.computed[sequence.slot]) if has_slot else 0
    known = computed + 1 if sequence.state is State.DECODE else sequence.known_tokens
    return RowView(
        request_id=sequence.request_id,
        state=RowState(sequence.state.value),
        slot=sequence.slot if has_slot else None,
        age_s=max(0.0, now_s - sequence.request.arrival_s),
        prompt_tokens=len(sequence.prompt),
        computed_tokens=computed,
        output_tokens=max(0, known - len(sequence.prompt)),
        max_tokens=sequence.request.max_tokens,
        blocks=len(rows.table(sequence.slot)) if has_slot else 0,
        preemptions=sequence.lives,
        priority=sequence.request.priority,
    )


def _owners(residents: Residents) -> "Int64s":
    """The owner of each block: a request id, FREE, CACHED or SHARED."""
    pool = residents.cache.pool
    owners = np.full(pool.num_blocks, CACHED, np.int64)
    owners[pool.free_ids] = FREE
    for sequence in residents.running():
        owners[residents.rows.table(sequence.slot)] = sequence.request_id
    owners[pool.holders > 1] = SHARED
    return owners


def compress(owners: "Int64s") -> BlockMap:
    """The map of the blocks' owners (int64[blocks]), with at most MAX_RUNS runs."""
    cell_blocks = 1
    while True:
        cells = owners[::cell_blocks]
        starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1)) if len(cells) else np.zeros(0, np.int64)
        if len(starts) <= MAX_RUNS:
            break
        cell_blocks *= 2
    lengths = np.diff(starts, append=len(cells))
    return BlockMap(owners=cells[starts].tolist(), lengths=lengths.tolist(), cell_blocks=cell_blocks)
