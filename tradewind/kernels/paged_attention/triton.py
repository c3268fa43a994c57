"""paged_attention in Triton: persistent programs that share out the work of a ragged batch among themselves.

The launch does not depend on the batch, so it may be part of a CUDA graph: every program reads the rows' lengths and
finds out by itself which pieces are its own. A row's queries, token by token and within a token the heads that share a
key-value head, are cut into tiles; where there are fewer tiles than programs, the context is cut too, into splits. A
piece of work is (row, split, tile, key-value head). The program that finishes the last split of a tile adds the splits
up, in their order, so that the result does not depend on who that was. The online softmax is that of
https://arxiv.org/abs/2205.14135.

There are two launches: one with small tiles for rows of few queries (decode), one with large tiles for the others. The
second is left out where the host knows that there are none.

Legend beyond the package's: BM rows of a tile (packed queries), BN keys at a time.
"""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import begin
from tradewind.kernels.rows import Rows

_LOG2_E = 1.4426950408889634
_NO_WINDOW = 2**30
_NO_SPLIT = 2**30


@triton.jit
def _load_rows(query_starts, context_lens, R, window, least, most, GROUP, BM: tl.constexpr, BLOCK_R: tl.constexpr):
    """(tiles_R, span_R) of the rows with `least` to `most` packed queries; 0 tiles for the others."""
    row = tl.arange(0, BLOCK_R)
    begins = tl.load(query_starts + row, mask=row < R, other=0)
    ends = tl.load(query_starts + row + 1, mask=row < R, other=0)
    contexts = tl.load(context_lens + row, mask=row < R, other=0)
    packed = (ends - begins) * GROUP
    tiles = tl.where((packed >= least) & (packed <= most), (packed + BM - 1) // BM, 0)
    return tiles, tl.minimum(contexts, ends - begins + window - 1)


@triton.jit
def _load(at, mask, NOTHING: tl.constexpr, PLAIN: tl.constexpr):
    """NOTHING: what is read where `mask` is false. PLAIN: it never is."""
    return tl.load(at) if PLAIN else tl.load(at, mask=mask, other=NOTHING)


@triton.jit
def _attend(
    q_tile, k_pages, v_pages, block_stride, table, position, head, begin_at, end_at, lo, hi, window, scale, softcap,
    peak, mass, acc, even, odd,
    K: tl.constexpr, KP: tl.constexpr, BN: tl.constexpr, S: tl.constexpr, MASKED: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, EXACT_DOT: tl.constexpr, IN_PAIRS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Add the keys of [begin_at, end_at), BN at a time, to what has been summed up. MASKED: not all queries see all."""
    PLAIN: tl.constexpr = not MASKED and K == KP
    column = tl.arange(0, KP)
    pair = tl.arange(0, KP // 2)
    head_at = head.to(tl.int64) * S * K
    for start in tl.range(begin_at, end_at, BN, num_stages=STAGES):
        key = start + tl.arange(0, BN)
        there = (key >= lo) & (key < hi) if MASKED else key >= 0
        block = _load(table + key // S, there, 0, not MASKED).to(tl.int64)
        at = block * block_stride + head_at + (key % S) * K
        k_tile = _load(k_pages + at[None, :] + column[:, None], there[None, :] & (column < K)[:, None], 0.0, PLAIN)
        scores = tl.dot(q_tile, k_tile.to(q_tile.dtype), input_precision="ieee" if EXACT_DOT else "tf32") * scale
        if HAS_SOFTCAP:
            # tanh(x) = 1 - 2 / (exp(2x) + 1), and exp(2x) = exp2(2 log2(e) x)
            scores = softcap * (1.0 - 2.0 / (tl.exp2(scores * (2.8853900817779268 / softcap)) + 1.0))
        if MASKED:
            seen = there[None, :] & (key[None, :] <= position[:, None]) & (key[None, :] > position[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - base[:, None])
        fade = tl.exp2(peak - base)
        mass = mass * fade + tl.sum(weights, 1)
        weights = weights.to(q_tile.dtype)
        if IN_PAIRS:
            v_at = v_pages.to(tl.pointer_type(tl.int16), bitcast=True) + (at // 2)[:, None] + pair[None, :]
            words = _load(v_at, there[:, None] & (pair < K // 2)[None, :], 0, PLAIN)
            low = words.to(tl.uint8, bitcast=False).to(tl.float8e4nv, bitcast=True).to(tl.float16)
            high = (words >> 8).to(tl.uint8, bitcast=False).to(tl.float8e4nv, bitcast=True).to(tl.float16)
            even = tl.dot(weights, low, even * fade[:, None])
            odd = tl.dot(weights, high, odd * fade[:, None])
        else:
            v_tile = _load(v_pages + at[:, None] + column[None, :], there[:, None] & (column < K)[None, :], 0.0, PLAIN)
            acc = acc * fade[:, None]
            acc = tl.dot(weights, v_tile.to(q_tile.dtype), acc, input_precision="ieee" if EXACT_DOT else "tf32")
        peak = new_peak
    return peak, mass, acc, even, odd


@triton.jit(do_not_specialize=["R", "G", "GROUP", "least", "most"])
def paged_attention_kernel(
    q, q_stride, k_pages, v_pages, block_stride, query_starts, context_lens, block_tables, table_stride, out,
    partials, marks, arrivals, R, G, GROUP, least, most, window, least_split, scale, softcap,
    K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BLOCK_R: tl.constexpr, S: tl.constexpr,
    SKIPS_MASK: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EXACT_DOT: tl.constexpr, EIGHT_BITS: tl.constexpr,
    IN_PAIRS: tl.constexpr, OVERLAPS: tl.constexpr, STAGES: tl.constexpr, COMBINES: tl.constexpr,
):  # fmt: skip
    """SKIPS_MASK: keys that all queries see are not compared with anything; rounding may then depend on the chunk.
    EIGHT_BITS: of the pages; every such number is one in float16 too. IN_PAIRS: values are read two by two, since 16
    bits is the least that the tensor cores' loads can transpose; even and odd columns are then multiplied apart.

    `scale` and `softcap` are for base-2 exponentials. `partials` [items, BM, KP], `marks` [items, 2, BM] float32;
    `arrivals` [items] int32, zero, and left so."""
    begin(OVERLAPS)
    tiles_R, span_R = _load_rows(query_starts, context_lens, R, window, least, most, GROUP, BM, BLOCK_R)
    # A split is a program's fair share of all keys, in whole steps.
    share = tl.sum(tiles_R.to(tl.float32) * span_R.to(tl.float32), 0) * G / tl.num_programs(0)
    split = tl.maximum(tl.cdiv(tl.minimum(share, 1e9).to(tl.int32), BN) * BN, least_split)
    splits_R = tl.cdiv(span_R, split)
    items_R = tiles_R * splits_R * G
    ends_R = tl.cumsum(items_R, 0)
    shared_R = tl.where(splits_R > 1, items_R, 0)
    shared_ends_R = tl.cumsum(shared_R, 0)
    total = tl.sum(items_R, 0)
    row_R = tl.arange(0, BLOCK_R)
    for item in tl.range(tl.program_id(0), total, tl.num_programs(0), num_stages=1):
        row = tl.sum((ends_R <= item).to(tl.int32), 0)
        here_R = row_R == row
        tiles = tl.sum(tl.where(here_R, tiles_R, 0), 0)
        splits = tl.sum(tl.where(here_R, splits_R, 0), 0)
        local = item - tl.sum(tl.where(here_R, ends_R - items_R, 0), 0)
        # Later tiles see more keys: they come first, so that the last programs to finish have little left.
        head = local % G
        tile = tiles - 1 - (local // G) % tiles
        part = local // (G * tiles)
        first_token = tl.load(query_starts + row)
        tokens = tl.load(query_starts + row + 1) - first_token
        context = tl.load(context_lens + row)
        # The tile's queries, and what each may see: positions (position - window, position].
        packed = tile * BM + tl.arange(0, BM)
        token = packed // GROUP
        in_row = token < tokens
        position = context - tokens + token
        # -- bounds of this piece
        tile_first = context - tokens + tile * BM // GROUP
        tile_last = context - tokens + tl.minimum((tile * BM + BM - 1) // GROUP, tokens - 1)
        row_first = tl.maximum(context - tokens - window + 1, 0)
        seen_first = tl.maximum(tile_first - window + 1, 0)
        lo = tl.maximum(row_first + part * split, seen_first)
        hi = tl.minimum(row_first + (part + 1) * split, tile_last + 1)
        # -- queries
        column = tl.arange(0, KP)
        q_head = head * GROUP + packed % GROUP
        in_head = column < K
        q_at = (first_token + token).to(tl.int64) * q_stride + q_head * K
        q_tile = tl.load(q + q_at[:, None] + column[None, :], mask=in_row[:, None] & in_head[None, :], other=0.0)
        peak = tl.full([BM], float("-inf"), tl.float32)
        mass = tl.zeros([BM], tl.float32)
        if EIGHT_BITS:
            q_tile = q_tile.to(tl.float16)
        even = tl.zeros([BM, KP // 2], tl.float32)
        odd = tl.zeros([BM, KP // 2], tl.float32)
        acc = tl.zeros([BM, KP], tl.float32)
        table = block_tables + row.to(tl.int64) * table_stride
        first = lo // BN * BN
        if SKIPS_MASK:
            # Steps whose keys all queries of the tile see.
            is_whole = (first == lo) & (tile_last - window < lo)
            whole_end = tl.where(is_whole, tl.maximum(tl.minimum(hi, tile_first + 1) // BN * BN, first), first)
            peak, mass, acc, even, odd = _attend(
                q_tile, k_pages, v_pages, block_stride, table, position, head, first, whole_end, lo, hi, window, scale,
                softcap, peak, mass, acc, even, odd, K, KP, BN, S, False, HAS_SOFTCAP, EXACT_DOT, IN_PAIRS, STAGES,
            )  # fmt: skip
            first = whole_end
        peak, mass, acc, even, odd = _attend(
            q_tile, k_pages, v_pages, block_stride, table, position, head, first, hi, lo, hi, window, scale, softcap,
            peak, mass, acc, even, odd, K, KP, BN, S, True, HAS_SOFTCAP, EXACT_DOT, IN_PAIRS, STAGES,
        )  # fmt: skip
        if IN_PAIRS:
            acc = tl.reshape(tl.join(even, odd), [BM, KP])
        out_at = ((first_token + token).to(tl.int64) * (G * GROUP) + q_head) * K
        written = in_row[:, None] & in_head[None, :]
        if splits == 1:
            result = acc / tl.where(mass == 0.0, 1.0, mass)[:, None]
            tl.store(out + out_at[:, None] + column[None, :], result.to(out.dtype.element_ty), mask=written)
        else:
            first_shared = tl.sum(tl.where(here_R, shared_ends_R - shared_R, 0), 0)
            slot = first_shared + local
            each = tl.arange(0, BM)
            tl.store(partials + slot.to(tl.int64) * (BM * KP) + each[:, None] * KP + column[None, :], acc)
            tl.store(marks + slot * (2 * BM) + each, peak)
            tl.store(marks + slot * (2 * BM) + BM + each, mass)
            tl.debug_barrier()
            of_tile = first_shared + local % (G * tiles)
            arrived = tl.atomic_add(arrivals + of_tile, 1, sem="acq_rel")
            if arrived == splits - 1:
                tl.store(arrivals + of_tile, 0)
                peak = tl.full([BM], float("-inf"), tl.float32)
                mass = tl.zeros([BM], tl.float32)
                acc = tl.zeros([BM, KP], tl.float32)
                for s in tl.range(0, splits, num_stages=COMBINES):
                    other = of_tile + s * (G * tiles)
                    other_acc = tl.load(
                        partials + other.to(tl.int64) * (BM * KP) + each[:, None] * KP + column[None, :],
                        mask=written, other=0.0, cache_modifier=".cg",
                    )  # fmt: skip
                    other_peak = tl.load(marks + other * (2 * BM) + each, cache_modifier=".cg")
                    other_mass = tl.load(marks + other * (2 * BM) + BM + each, cache_modifier=".cg")
                    new_peak = tl.maximum(peak, other_peak)
                    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
                    fade, other_fade = tl.exp2(peak - base), tl.exp2(other_peak - base)
                    mass = mass * fade + other_mass * other_fade
                    acc = acc * fade[:, None] + other_acc * other_fade[:, None]
                    peak = new_peak
                result = acc / tl.where(mass == 0.0, 1.0, mass)[:, None]
                tl.store(out + out_at[:, None] + column[None, :], result.to(out.dtype.element_ty), mask=written)


@dataclass(frozen=True)
class Tile:
    """How one of the two launches is made. `programs` is per multiprocessor. `in_pairs`: see the kernel."""

    rows: int
    keys: int
    warps: int
    stages: int
    programs: int
    in_pairs: bool = False  # with pages of 8 bits

    @property
    def combines(self) -> int:
        """How many splits are read at once when they are added up: those of a large tile would fill shared memory."""
        return 4 if self.rows <= 16 else 1


# By the bytes of a key's number; measured on an H100.
SMALL = {2: Tile(16, 128, 4, 3, 2), 1: Tile(16, 128, 4, 3, 2, in_pairs=True), 4: Tile(16, 32, 4, 2, 2)}
LARGE = {2: Tile(64, 64, 4, 2, 2), 1: Tile(64, 64, 4, 2, 2), 4: Tile(64, 32, 8, 2, 1)}
EXACT = Tile(64, 32, 4, 3, 2)  # for all rows alike
LEAST_SPLIT = 128  # keys: a shorter piece costs more to add up than it saves


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
        # A row is split only if it has more than a share of the work: see the kernel for why two per program suffice.
        tiles = [*SMALL.values(), *LARGE.values()]
        items = [2 * (tile.programs * chip.processors + 1) for tile in tiles]
        numbers = max(count * tile.rows for count, tile in zip(items, tiles, strict=True))
        self._partials = torch.empty(0 if exact else numbers * widest, dtype=torch.float32, device=device)
        self._marks = torch.empty(0 if exact else 2 * numbers, dtype=torch.float32, device=device)
        self._arrivals = torch.zeros(max(items), dtype=torch.int32, device=device)

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
        small, large = (tiles[k_pages_BGSK.dtype.itemsize] for tiles in (SMALL, LARGE))
        few = max(small.rows, next_power_of_2(group))  # the most packed queries of a row that takes the small tile
        pages = (k_pages_BGSK, v_pages_BGSK)
        if len(rows.context_lens_R) and self._exact:
            self._launch(EXACT, 1, 2**30, q_THK, pages, rows, out_THK, scale, window, softcap)
        elif len(rows.context_lens_R):
            self._launch(replace(small, rows=few), 1, few, q_THK, pages, rows, out_THK, scale, window, softcap)
            if rows.max_query * group > few:
                self._launch(large, few + 1, 2**30, q_THK, pages, rows, out_THK, scale, window, softcap)
        return out_THK

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
        count = len(rows.context_lens_R)
        eight_bits = k_pages_BGSK.dtype.itemsize == 1
        paged_attention_kernel[(tile.programs * self._chip.processors,)](
            q_THK, q_THK.stride(0), k_pages_BGSK, v_pages_BGSK, k_pages_BGSK.stride(0), rows.query_starts_R1,
            rows.context_lens_R, rows.block_tables_RM, rows.block_tables_RM.stride(0), out_THK, self._partials,
            self._marks, self._arrivals, count, kv_heads, q_THK.shape[1] // kv_heads, least, most,
            window or _NO_WINDOW, _NO_SPLIT if self._exact else LEAST_SPLIT, scale * _LOG2_E,
            (softcap or 0.0) * _LOG2_E, K=head_dim, KP=padded, BM=tile.rows, BN=tile.keys,
            BLOCK_R=_padded(count), S=block_tokens, SKIPS_MASK=not self._exact, HAS_SOFTCAP=softcap is not None,
            EXACT_DOT=q_THK.dtype == torch.float32, EIGHT_BITS=eight_bits,
            IN_PAIRS=eight_bits and tile.in_pairs and head_dim % 2 == 0, OVERLAPS=self._chip.overlaps,
            STAGES=tile.stages, COMBINES=tile.combines, num_warps=tile.warps, num_stages=tile.stages,
            launch_pdl=self._chip.overlaps,
        )  # fmt: skip


def _padded(rows: int) -> int:
    """The length of what a program knows of all rows: of few sizes, so that few kernels are compiled."""
    return next(size for size in (16, 64, 256, 512, 1024, next_power_of_2(rows)) if rows <= size)
