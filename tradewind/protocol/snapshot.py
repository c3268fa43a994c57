"""What an engine looks like from inside at one moment: who runs, who waits, who holds which block."""

from enum import StrEnum

import msgspec

from tradewind.protocol.result import EngineStats

FREE = -1
CACHED = -2
SHARED = -3
"""Owners of blocks that are no request: free, kept for their content, held by several sequences. Others are ids."""

MAX_ROWS = 512
MAX_RUNS = 4096
"""The most entries of a snapshot's lists: its size has a bound, whatever the engine does."""


class RowState(StrEnum):
    """Where a sequence is."""

    PREFILL = "prefill"  # its known tokens are being computed
    DECODE = "decode"  # a token a step
    PREEMPTED = "preempted"  # waits for blocks to go on
    PARKED = "parked"  # waits for a prefix that another one computes
    WAITING = "waiting"  # has never run


class RowView(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence. `computed_tokens` are in the cache; `output_tokens` counts what was said, or is in flight."""

    request_id: int
    state: RowState
    slot: int | None
    age_s: float  # since it arrived
    prompt_tokens: int
    computed_tokens: int
    output_tokens: int
    max_tokens: int
    blocks: int
    preemptions: int
    priority: int


class BlockMap(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the pool's blocks, in order of ids, as runs: `owners[i]` holds the next `lengths[i]` cells.

    A cell is `cell_blocks` blocks: 1, unless there would be more than MAX_RUNS runs. Then it is the smallest power of
    two for which there are not, and a cell's owner is that of its first block.
    """

    owners: list[int]
    lengths: list[int]
    cell_blocks: int = 1


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """A whole engine: at most MAX_ROWS sequences (those with a slot first, then by arrival), and its figures."""

    stats: EngineStats
    rows: list[RowView]
    blocks: BlockMap
