"""paged_attention in Triton: persistent programs that share out the work of a ragged batch among themselves.

The launch does not depend on the batch, so it may be part of a CUDA graph: every program reads the rows' lengths, knows
all pieces from them, and takes one after the other from a common counter. A row's queries, token by token and within a
token the heads that share a key-value head, are cut into tiles; where there are fewer tiles than programs, or rows
differ, the context is cut too, into splits. A piece of work is (row, split, tile, key-value head). The program that
finishes the last split of a tile adds the splits up, in their order, so that the result does not depend on who that
was. The online softmax is that of https://arxiv.org/abs/2205.14135.

There are two launches: one with small tiles for rows of few queries (decode), one with large tiles for the others. The
second is left out where the host knows that there are none.

Legend beyond the package's: BM rows of a tile (packed queries), BN keys at a time.
"""

import math
import sys
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import FEW_TOKENS, Chip, next_power_of_2
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.paged_attention import warp_specialised
from tradewind.kernels.paged_attention.few_queries import attend_few
from tradewind.kernels.paged_attention.many_queries import attend_many, in_two
from tradewind.kernels.paged_attention.pieces import added, find_piece, load_rows, longest_piece, shared_before
from tradewind.kernels.rows import Rows

LOG2_E = 1.4426950408889634
NO_WINDOW = 2**30
_NO_SPLIT = 2**30
_COLUMNS = tl.constexpr(8)  # Of a tile, at most. With twice as many, registers would not do everywhere.


@triton.jit
def attend(
    q_tile, q_rest, k_pages, v_pages, block_stride, table, position, head, lo, hi, whole_end, window_end, window, scale,
    softcap, K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EXACT_DOT: tl.constexpr, IN_PAIRS: tl.constexpr,
    IN_TWO: tl.constexpr, IN_HARDWARE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """(peak, mass, acc) of the keys [lo, hi), BN at a time. All queries see the keys [window_end, whole_end).

    With IN_TWO, which few queries are not, they are q_tile + q_rest, and `scale` is one for each.
    """
    if BM <= _COLUMNS:
        peak, mass, acc = attend_few(
            q_tile, k_pages, v_pages, block_stride, table, position, head, lo, hi, whole_end, window_end, window, scale,
            softcap, K, KP, BM, BN, S, RUN, HAS_WINDOW, HAS_SOFTCAP, EXACT_DOT, IN_PAIRS, IN_HARDWARE, STAGES,
        )  # fmt: skip
    else:
        peak, mass, acc = attend_many(
            q_tile, q_rest, k_pages, v_pages, block_stride, table, position, head, lo, hi, whole_end, window_end,
            window, scale, softcap, K, KP, BM, BN, S, RUN, HAS_WINDOW, HAS_SOFTCAP, EXACT_DOT, IN_PAIRS, IN_TWO,
            IN_HARDWARE, STAGES,
        )  # fmt: skip
    return peak, mass, acc


@triton.jit
def store(out, at, written, mass, acc):
    """The quotients; 0 where nothing was seen."""
    inverse = 1.0 / tl.where(mass == 0.0, 1.0, mass)
    tl.store(out + at, (acc * inverse[:, None]).to(out.dtype.element_ty), mask=written)


@triton.jit
def _add_up(partials, marks, first, step, splits, BM: tl.constexpr, KP: tl.constexpr, COMBINES: tl.constexpr):
    """(mass, acc) of a tile whose splits are in the places `first`, `first` + `step`, ..., in this order."""
    each, column = tl.arange(0, BM), tl.arange(0, KP)
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, KP], tl.float32)
    for split in tl.range(0, splits, num_stages=COMBINES):
        place = first + split * step
        part_at = partials + place.to(tl.int64) * (BM * KP) + each[:, None] * KP + column[None, :]
        part_acc = tl.load(part_at, cache_modifier=".cg")
        part_peak = tl.load(marks + place * (2 * BM) + each, cache_modifier=".cg")
        part_mass = tl.load(marks + place * (2 * BM) + BM + each, cache_modifier=".cg")
        peak, mass, acc = added(peak, mass, acc, part_peak, part_mass, part_acc)
    return mass, acc


@triton.jit(do_not_specialize=["R", "least", "most"])
def paged_attention_kernel(
    q, q_stride, k_pages, v_pages, block_stride, query_starts, context_lens, block_tables, table_stride, out,
    partials, marks, arrivals, dealt, R, least, most, window, least_split, scale, softcap,
    G: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BLOCK_R: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    EXACT_DOT: tl.constexpr, EIGHT_BITS: tl.constexpr, IN_PAIRS: tl.constexpr, IN_TWO: tl.constexpr,
    IN_HARDWARE: tl.constexpr, DEALS: tl.constexpr, OVERLAPS: tl.constexpr, STAGES: tl.constexpr,
    COMBINES: tl.constexpr, STEP: tl.constexpr, ROUNDS: tl.constexpr, EARLY: tl.constexpr,
    RELEASES: tl.constexpr,
):  # fmt: skip
    """RUN: consecutive keys that certainly are in one block, if it begins at a multiple of theirs.

    EIGHT_BITS: of the pages; every such number is one in float16 too. IN_PAIRS: values are read two by two, since 16
    bits is the least that the tensor cores' loads can transpose; even and odd columns are then multiplied apart.
    IN_TWO: keys are multiplied as they are, by queries that are sums of two numbers of 8 bits; with IN_PAIRS, the even
    columns of values stand before the odd ones in one product, whose numbers then meet no bank of shared memory twice.
    IN_HARDWARE: there is an instruction that widens two numbers of 8 bits (Triton's interpreter knows none). DEALS:
    a program that is done with a piece takes the next one; else every program has its turn. EARLY: programs find their
    piece before they wait for what the kernels before this one wrote. RELEASES: the next kernel may begin at
    once, which was a loss with a single row.

    `scale` and `softcap` are for base-2 exponentials. `partials` [items, BM, KP], `marks` [items, 2, BM] float32;
    `arrivals` [items] and `dealt` [2] (pieces dealt out beyond the first of each program, and programs that are done)
    int32, zero, and left so."""
    release(OVERLAPS and RELEASES)
    begin(OVERLAPS and not EARLY)
    each_row = tl.arange(0, BLOCK_R)
    tiles_R, span_R = load_rows(each_row, query_starts, context_lens, R, window, least, most, GROUP, BM)
    longest = longest_piece(tiles_R, span_R, tl.num_programs(0), G, least_split, BN, ROUNDS)
    items_R = tiles_R * tl.cdiv(span_R, longest) * G
    ends_R = tl.cumsum(items_R, 0)
    total = tl.sum(items_R, 0)
    programs = tl.num_programs(0)
    item = tl.program_id(0)
    while item < total:
        row, local, first_token, tokens, context, tiles, splits, head, tile, lo, hi = find_piece(
            item, ends_R, longest, query_starts, context_lens, window, G, GROUP, BM, STEP
        )
        # The tile's queries, and what each may see: positions (position - window, position].
        packed = tile * BM + tl.arange(0, BM)
        token = packed // GROUP
        position = context - tokens + token
        tile_first = context - tokens + tile * BM // GROUP
        tile_last = context - tokens + tl.minimum((tile * BM + BM - 1) // GROUP, tokens - 1)
        begin(OVERLAPS and EARLY)
        # -- queries
        column = tl.arange(0, KP)
        q_head = head * GROUP + packed % GROUP
        written = (token < tokens)[:, None] & (column < K)[None, :]
        q_row = q + first_token.to(tl.int64) * q_stride
        q_tile = tl.load(q_row + (token * q_stride + q_head * K)[:, None] + column[None, :], mask=written, other=0.0)
        q_rest, row_scale = q_tile, scale
        if IN_TWO:
            q_tile, q_rest, factor = in_two(q_tile)
            row_scale = scale * factor
        elif EIGHT_BITS:
            q_tile = q_tile.to(tl.float16)
        item += programs
        if DEALS and total > programs:
            # The next piece is asked for now, so that nobody waits for the answer.
            item = programs + tl.atomic_add(dealt, 1, sem="relaxed")
        table = block_tables + row.to(tl.int64) * table_stride
        # All queries of the tile see the keys between these.
        window_end = tl.maximum(lo, tile_last - window + 1)
        whole_end = tl.minimum(hi, tile_first + 1)
        peak, mass, acc = attend(
            q_tile, q_rest, k_pages, v_pages, block_stride, table, position, head, lo, hi, whole_end, window_end,
            window, row_scale, softcap, K, KP, BM, BN, S, RUN, HAS_WINDOW, HAS_SOFTCAP, EXACT_DOT, IN_PAIRS, IN_TWO,
            IN_HARDWARE, STAGES,
        )  # fmt: skip
        out_row = out + first_token.to(tl.int64) * (G * GROUP * K)
        out_at = ((token * (G * GROUP) + q_head) * K)[:, None] + column[None, :]
        if splits == 1:
            store(out_row, out_at, written, mass, acc)
        else:
            # Read again: what is kept of all rows would take the registers that keys and values need.
            tiles_R, span_R = load_rows(each_row, query_starts, context_lens, R, window, least, most, GROUP, BM)
            first_shared = shared_before(row, each_row, tiles_R, span_R, longest, G)
            place = first_shared + local
            each = tl.arange(0, BM)
            tl.store(partials + place.to(tl.int64) * (BM * KP) + each[:, None] * KP + column[None, :], acc)
            tl.store(marks + place * (2 * BM) + each, peak)
            tl.store(marks + place * (2 * BM) + BM + each, mass)
            tl.debug_barrier()
            of_tile = first_shared + local % (G * tiles)
            arrived = tl.atomic_add(arrivals + of_tile, 1, sem="acq_rel")
            if arrived == splits - 1:
                tl.store(arrivals + of_tile, 0)
                mass, acc = _add_up(partials, marks, of_tile, G * tiles, splits, BM, KP, COMBINES)
                store(out_row, out_at, written, mass, acc)
    begin(OVERLAPS and EARLY)  # without a piece, too: the kernel after this one waits for this one alone
    if DEALS and total > programs:  # noqa: SIM102 - `and` would count who is done in any case
        if tl.atomic_add(dealt + 1, 1, sem="relaxed") == programs - 1:
            tl.store(dealt, 0)
            tl.store(dealt + 1, 0)


def pieces_of(rounds: int) -> int:
    """How many pieces of rows that are cut there may be, for each program, if it has so many rounds at most.

    With r rounds, P programs and T tiles of such rows they are fewer than rP - T/2 of the longest length, and a last
    one for each of the T tiles; two for each full one at most: 4rP/3.
    """
    return -(-4 * rounds // 3)


@dataclass(frozen=True)
class Tile:
    """How one of the two launches is made. `programs` is per multiprocessor. `in_pairs`, `in_two`: see the kernel."""

    rows: int
    keys: int
    warps: int
    stages: int
    programs: int
    in_pairs: bool = False  # with pages of 8 bits
    in_two: bool = False  # with pages of 8 bits

    @property
    def rounds(self) -> int:
        """How many pieces a program has, at most, because rows differ: those of a large tile are dear to add up."""
        return 8 if self.rows <= 16 else 2

    @property
    def pieces(self) -> int:
        """How many pieces of rows that are cut there may be, for each program."""
        return pieces_of(self.rounds)

    @property
    def combines(self) -> int:
        """How many splits are read at once when they are added up: those of a large tile would fill shared memory."""
        return 4 if self.rows <= 16 else 1


# By the bytes of a key's number; measured on an H200.
SMALL = {2: Tile(8, 64, 4, 3, 2), 1: Tile(8, 128, 4, 2, 2, in_pairs=True), 4: Tile(8, 32, 4, 2, 2)}
LARGE = {
    2: Tile(64, 64, 4, 3, 2),
    1: Tile(64, 64, 4, 3, 2, in_pairs=True, in_two=True),
    4: Tile(64, 32, 8, 2, 1),
}
# Instead of the small ones, for so many rows: twice as many programs all find work. Of more rows of 16 bits, those that
# differ were slower so on an H100.
CROWDED = {1: Tile(8, 64, 2, 3, 4, in_pairs=True), 2: Tile(8, 64, 2, 2, 4)}
_CROWDS = {1: range(17, sys.maxsize), 2: range(33, FEW_TOKENS + 1)}
_SHORT_STAGES = 2  # Of such a tile, where the next kernels begin beside it and need room. Measured on an H100.
DEALT = 512  # Of more rows of few queries, what a program knows of them takes the registers that the counter needs.
EXACT = Tile(64, 64, 4, 3, 2)  # for all rows alike
SPECIALISED = Tile(warp_specialised.ROWS, warp_specialised.KEYS, 12, 3, 1)  # for prompts, where it is for them
_RESERVED_BYTES = 1024  # of shared memory, for each program
MOST_ROWS = max(tile.rows for tile in LARGE.values())  # of a tile whose splits have room
LEAST_SPLIT = 128  # keys: a shorter piece costs more to add up than it saves


def small_tile(itemsize: int, rows: int, head_dim: int, group: int) -> Tile:
    """The tile for rows of few queries, by the bytes of a key's number: for those of a token at least.

    Narrow heads take twice the keys at a time.
    """
    tile = SMALL[itemsize]
    is_crowd = itemsize in CROWDED and rows in _CROWDS[itemsize]
    if is_crowd and head_dim <= 128 and (itemsize == 1 or group <= _COLUMNS.value):  # others would spill
        tile = CROWDED[itemsize]
        if rows <= FEW_TOKENS:
            tile = replace(tile, stages=_SHORT_STAGES)
    keys = 2 * tile.keys if head_dim <= 64 else tile.keys
    return replace(tile, rows=max(tile.rows, next_power_of_2(group)), keys=keys)


def grown_tiles() -> list[Tile]:
    """The tiles for rows of few queries, for groups of all sizes whose splits have room."""
    sizes = [2**power for power in range(next_power_of_2(MOST_ROWS).bit_length())]
    return [
        replace(tile, rows=rows) for tile in (*SMALL.values(), *CROWDED.values()) for rows in sizes if rows >= tile.rows
    ]


def fitted(tile: Tile, chip: Chip, width: int, itemsize: int) -> Tile:
    """The tile as it has room there, for heads of this width, filled up, and pages of such numbers.

    Beside keys and values there are the queries and their weights. What came before Hopper has two stages.
    """
    beside_bytes = _beside_bytes(tile, width)
    keys = tile.keys // 2 if beside_bytes + 4 * tile.keys * width > chip.shared_bytes else tile.keys
    wanted = min(tile.stages, 3 if chip.overlaps else 2)
    return replace(tile, keys=keys, stages=chip.stages(wanted, 2 * keys * width * itemsize, beside_bytes))


def _beside_bytes(tile: Tile, width: int) -> int:
    """Of shared memory, beside keys and values."""
    return 2 * tile.rows * (width + tile.keys)


def resident(tile: Tile, chip: Chip, width: int, itemsize: int) -> int:
    """How many programs of a fitted tile are on the chip at the same time, no more than it is meant to have."""
    tile_bytes = _beside_bytes(tile, width) + (tile.stages - 1) * 2 * tile.keys * width * itemsize
    return chip.processors * max(1, min(tile.programs, chip.shared_bytes // (tile_bytes + _RESERVED_BYTES)))


class TritonPagedAttention:
    """See `tradewind.kernels.paged_attention.PagedAttention`. Pages may also be float8_e4m3fn, of unit scale.

    Owns the memory that splits meet in, so calls must follow each other on one stream. `exact`: all tiles are of one
    size and the context is never split, so that a token's result does not depend on what shares the batch, or on how
    its prompt was cut into chunks.
    """

    def __init__(self, device: torch.device, chip: Chip, *, exact: bool = False, widest: int = 256) -> None:
        """`widest`: the largest head_dim that splits make room for."""
        self._chip = chip
        self._exact = exact
        tiles = [*LARGE.values(), SPECIALISED, *grown_tiles()]
        items = [tile.pieces * tile.programs * chip.processors for tile in tiles]
        numbers = max(count * tile.rows for count, tile in zip(items, tiles, strict=True))
        self._partials = torch.empty(0 if exact else numbers * widest, dtype=torch.float32, device=device)
        self._marks = torch.empty(0 if exact else 2 * numbers, dtype=torch.float32, device=device)
        # Those who multiply count the halves of a tile each for itself.
        self._arrivals = torch.zeros(2 * max(items), dtype=torch.int32, device=device)
        self._dealt = torch.zeros(2, dtype=torch.int32, device=device)

    def __call__(
        self,
        q_THK: Tensor,
        k_pages_BGSK: Tensor,
        v_pages_BGSK: Tensor,
        rows: Rows,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype, device=q_THK.device)
        group = q_THK.shape[1] // k_pages_BGSK.shape[1]
        itemsize = k_pages_BGSK.dtype.itemsize
        small, large = small_tile(itemsize, len(rows.context_lens_R), q_THK.shape[2], group), LARGE[itemsize]
        few = small.rows  # the most packed queries of a row that takes the small tile
        pages = (k_pages_BGSK, v_pages_BGSK)
        if len(rows.context_lens_R) and self._exact:
            self._launch(EXACT, 1, 2**30, q_THK, pages, rows, out_THK, scale, window, softcap)
        elif len(rows.context_lens_R):
            self._launch(small, 1, few, q_THK, pages, rows, out_THK, scale, window, softcap)
            if rows.max_query * group <= few:
                return out_THK
            if warp_specialised.takes(q_THK, k_pages_BGSK, self._chip, window, softcap):
                self._launch_specialised(few + 1, q_THK, pages, rows, out_THK, scale, window)
            else:
                self._launch(large, few + 1, 2**30, q_THK, pages, rows, out_THK, scale, window, softcap)
        return out_THK

    def _splits(self, tile: Tile) -> bool:
        """Whether contexts may be cut. Tiles that grew with the queries of a key-value head find no room to meet in."""
        return not self._exact and tile.rows <= MOST_ROWS

    def _launch(
        self,
        tile: Tile,
        least: int,
        most: int,
        q_THK: Tensor,
        pages: tuple[Tensor, Tensor],
        rows: Rows,
        out_THK: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> None:
        k_pages_BGSK, v_pages_BGSK = pages
        _, kv_heads, block_tokens, head_dim = k_pages_BGSK.shape
        padded = max(16 if k_pages_BGSK.dtype.itemsize > 1 else 32, next_power_of_2(head_dim))
        assert q_THK.stride(2) == 1 and q_THK.stride(1) == head_dim  # noqa: PT018
        count, eight_bits = len(rows.context_lens_R), k_pages_BGSK.dtype.itemsize == 1
        tile = fitted(tile, self._chip, padded, k_pages_BGSK.dtype.itemsize)
        early = rows.max_query == 1 and count <= FEW_TOKENS
        paged_attention_kernel[(tile.programs * self._chip.processors,)](
            q_THK, q_THK.stride(0), k_pages_BGSK, v_pages_BGSK, k_pages_BGSK.stride(0), rows.query_starts_R1,
            rows.context_lens_R, rows.block_tables_RM, rows.block_tables_RM.stride(0), out_THK, self._partials,
            self._marks, self._arrivals, self._dealt, count, least, most, window or NO_WINDOW,
            LEAST_SPLIT if self._splits(tile) else _NO_SPLIT, scale * LOG2_E, (softcap or 0.0) * LOG2_E, G=kv_heads,
            GROUP=q_THK.shape[1] // kv_heads, K=head_dim, KP=padded, BM=tile.rows, BN=tile.keys,
            BLOCK_R=padded_count(count), S=block_tokens, RUN=math.gcd(tile.keys, block_tokens),
            HAS_WINDOW=window is not None, HAS_SOFTCAP=softcap is not None, EXACT_DOT=q_THK.dtype == torch.float32,
            EIGHT_BITS=eight_bits, IN_PAIRS=eight_bits and tile.in_pairs and head_dim % 2 == 0,
            IN_TWO=eight_bits and tile.in_two, IN_HARDWARE=self._chip.has_fp8, DEALS=most > tile.rows or count <= DEALT,
            OVERLAPS=self._chip.overlaps, STAGES=tile.stages, COMBINES=tile.combines,
            STEP=max(16, math.gcd(tile.keys, block_tokens)), ROUNDS=tile.rounds,
            EARLY=early, RELEASES=early and count > 1, num_warps=tile.warps, num_stages=tile.stages,
            **self._chip.launch,
        )  # fmt: skip

    def _launch_specialised(
        self,
        least: int,
        q_THK: Tensor,
        pages: tuple[Tensor, Tensor],
        rows: Rows,
        out_THK: Tensor,
        scale: float,
        window: int | None,
    ) -> None:
        k_pages_BGSK, v_pages_BGSK = pages
        count, kv_heads = len(rows.context_lens_R), k_pages_BGSK.shape[1]
        warp_specialised.warp_specialised_kernel[(SPECIALISED.programs * self._chip.processors,)](
            q_THK, q_THK.stride(0), k_pages_BGSK, v_pages_BGSK, k_pages_BGSK.stride(0) // q_THK.shape[2],
            rows.query_starts_R1, rows.context_lens_R, rows.block_tables_RM, rows.block_tables_RM.stride(0), out_THK,
            self._partials, self._marks, self._arrivals, self._dealt, count, least, 2**30, window or NO_WINDOW,
            LEAST_SPLIT, scale * LOG2_E, G=kv_heads, GROUP=q_THK.shape[1] // kv_heads, BLOCK_R=padded_count(count),
            HAS_WINDOW=window is not None, ROUNDS=SPECIALISED.rounds, OVERLAPS=self._chip.overlaps,
            **warp_specialised.constants(k_pages_BGSK), **self._chip.launch,
        )  # fmt: skip


def padded_count(rows: int) -> int:
    """The length of what a program knows of all rows: of few sizes, so that few kernels are compiled."""
    return next(size for size in (16, 64, 256, 512, 1024, next_power_of_2(rows)) if rows <= size)
