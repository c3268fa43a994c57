"""fused_attention of some rows, in Triton: paged_attention's programs, which rotate what they need themselves.

A program has a piece of a row's context, for one key-value head, as in paged_attention.triton, whose pieces these are.
It rotates that head's queries; the last piece of a row writes the token's key and value to their place first, and then
reads them from there as it does all others. It also adds up what the other pieces have found (pieces.py), all of which
were begun before it.

Legend as in paged_attention.triton.
"""

import math
from dataclasses import replace

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_attention.pieces import ABSENT, add_up, parts_of
from tradewind.kernels.fused_attention.token_row import gains, in_page, load_heads, rotated
from tradewind.kernels.gpu import FEW_TOKENS, Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.paged_attention.pieces import load_rows, longest_piece, piece_of, shared_before
from tradewind.kernels.paged_attention.triton import (
    CROWDED,
    LEAST_SPLIT,
    LOG2_E,
    NO_WINDOW,
    SMALL,
    Tile,
    attend,
    fitted,
    padded_count,
    pieces_of,
    resident,
    small_tile,
    store,
)
from tradewind.kernels.quantised_rows import FP8, FP8_MAX, MeasuredRows
from tradewind.kernels.rows import HeadShape, Rows

_MOST_QUERIES = 16  # of a key-value head
_WIDEST = 2048  # numbers that a piece finds: of all of its queries, filled up
_LEAST_WIDTH = 32
_NARROW = 64  # heads that take twice the keys at a time
_REGISTERS, _BESIDE = 65_536, 8_192  # of a multiprocessor, and of them for a program of eight warps
_MOST_REGISTERS = 255  # of a thread
_ROUNDS = 4  # pieces of a program, at most, because rows differ
_MOST_AT_ONCE, _NUMBERS_AT_ONCE = 4, 32


@triton.jit(do_not_specialize=["R", "shares"])
def some_rows_kernel(
    qkv, qkv_stride, positions, write, query_starts, context_lens, block_tables, table_stride, cos_sin, q_norm, k_norm,
    eps, k_pages, v_pages, block_stride, out, out_scales, out_squares, partials, marks, dealt, R, shares, window,
    least_split, scale, softcap, out_scale, factor,
    G: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BLOCK_R: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr, HAS_NORM: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, EIGHT_BITS: tl.constexpr, IN_PAIRS: tl.constexpr, IN_HARDWARE: tl.constexpr,
    OVERLAPS: tl.constexpr, STAGES: tl.constexpr, STEP: tl.constexpr, ROUNDS: tl.constexpr, GP: tl.constexpr,
    AT_ONCE: tl.constexpr, PARTS: tl.constexpr, IN_TURN: tl.constexpr,
):  # fmt: skip
    """Rows of one token each, or of none.

    `shares`: programs that contexts are cut for; all of them are there, or one that does what they would. GP: GROUP,
    filled up. AT_ONCE, PARTS, IN_TURN: as for pieces.add_up, and so are `partials` [pieces, GP, KP] and `marks`
    [pieces, GP]. out_scales [T]: None, or those of what comes out, which is in 8 bits then: all `out_scale`, one over
    `factor`; and out_squares [T, G] are the sums of the squares of what each key-value head gives. The rest as for
    `paged_attention_kernel`.
    """
    release(OVERLAPS)
    each_row = tl.arange(0, BLOCK_R)
    tiles_R, span_R = load_rows(each_row, query_starts, context_lens, R, window, 1, GROUP, GROUP, BM)
    longest = longest_piece(tiles_R, span_R, shares, G, least_split, BN, ROUNDS)
    items_R = tiles_R * tl.cdiv(span_R, longest) * G
    ends_R = tl.cumsum(items_R, 0)
    total = tl.sum(items_R, 0)
    programs = tl.num_programs(0)
    column, each = tl.arange(0, KP), tl.arange(0, BM)
    query = tl.minimum(each, GROUP - 1)
    pair = tl.where(column < K // 2, column, column - K // 2)
    inside = column < K
    written = (each < GROUP)[:, None] & inside[None, :]
    item = tl.program_id(0)
    while item < total:
        row = tl.sum((ends_R <= item).to(tl.int32), 0)
        local = item - tl.max(tl.where(ends_R <= item, ends_R, 0), 0)
        token = tl.load(query_starts + row)
        context = tl.load(context_lens + row)
        span = tl.minimum(context, window)
        splits = tl.cdiv(span, longest)
        split = piece_of(span, longest, STEP)
        head, part = local % G, local // G
        lo = context - span + part * split
        hi = tl.minimum(lo + split, context)
        # Where a token is was written before the layers began.
        position = tl.load(positions + token).to(tl.int64)
        cos = tl.load(cos_sin + position * K + pair, mask=inside, other=0.0)
        sin = tl.load(cos_sin + position * K + K // 2 + pair, mask=inside, other=0.0)
        sin = tl.where(column < K // 2, -sin, sin)
        q_gain, swapped_q_gain = gains(q_norm, column, cos, K, HAS_NORM)
        k_gain, swapped_k_gain = gains(k_norm, column, cos, K, HAS_NORM)
        to = tl.load(write + token)
        to = to // S * block_stride + head * (S * K) + to % S * K + column
        begin(OVERLAPS)
        if out_scales is not None:
            tl.store(out_scales + token, out_scale)
        token_at = qkv + token.to(tl.int64) * qkv_stride
        # All that is the token's own is asked for at once, though its key and value are of use to the last piece only.
        q_a, q_b = load_heads(token_at + ((head * GROUP + query) * K)[:, None], column, K)
        new_at = token_at + (G * GROUP + head) * K + tl.zeros([1, 1], tl.int32)
        k_a, k_b = load_heads(new_at, column, K)
        new_v = tl.load(new_at + G * K + column[None, :], mask=inside[None, :], other=0.0)
        q_tile = rotated(q_a, q_b, q_gain, swapped_q_gain, cos, sin, eps, K, HAS_NORM).to(qkv.dtype.element_ty)
        if EIGHT_BITS:
            q_tile = q_tile.to(tl.float16)
        if hi == context:
            new_k = rotated(k_a, k_b, k_gain, swapped_k_gain, cos, sin, eps, K, HAS_NORM)
            tl.store(k_pages + to[None, :], in_page(new_k, k_pages), mask=inside[None, :])
            tl.store(v_pages + to[None, :], in_page(new_v.to(tl.float32), v_pages), mask=inside[None, :])
        tl.debug_barrier()  # this program's threads read what one of them has written
        item += programs
        if total > programs:
            # The next piece is asked for now, so that nobody waits for the answer.
            item = programs + tl.atomic_add(dealt, 1, sem="relaxed")
        table = block_tables + row.to(tl.int64) * table_stride
        last = tl.full([BM], 0, tl.int32) + (context - 1)
        peak, mass, acc = attend(
            q_tile, q_tile, k_pages, v_pages, block_stride, table, last, head, lo, hi, hi, lo, window, scale, softcap,
            K, KP, BM, BN, S, RUN, HAS_WINDOW, HAS_SOFTCAP, False, IN_PAIRS, False, IN_HARDWARE, STAGES,
        )  # fmt: skip
        out_row = out + token.to(tl.int64) * (G * GROUP * K)
        out_at = ((head * GROUP + query) * K)[:, None] + column[None, :]
        if splits == 1:
            if out_scales is None:
                store(out_row, out_at, written, mass, acc)
            else:
                found = in_range(acc * (factor / mass)[:, None])
                tl.store(out_row + out_at, found.to(out.dtype.element_ty), mask=written)
                square = tl.sum(tl.where(each < GROUP, tl.sum(found * found, 1), 0.0), 0)
                tl.store(out_squares + token * G + head, square * (out_scale * out_scale))
        else:
            # Read again: what is kept of all rows would take the registers that keys and values need.
            tiles_R, span_R = load_rows(each_row, query_starts, context_lens, R, window, 1, GROUP, GROUP, BM)
            first_shared = shared_before(row, each_row, tiles_R, span_R, longest, G)
            first = first_shared + head * splits
            at = ((first + part) * GP + each).to(tl.int64)
            tl.store(partials + (at * KP)[:, None] + column[None, :], acc / mass[:, None], mask=(each < GROUP)[:, None])
            tl.store(marks + at, peak + tl.log2(mass), mask=each < GROUP)
            if part == splits - 1:
                square = add_up(
                    out_row + head * (GROUP * K), None if out_scales is None else factor,
                    partials + first.to(tl.int64) * (GP * KP), marks + first * GP, splits, GROUP, GP, K, KP, AT_ONCE,
                    PARTS, IN_TURN,
                )  # fmt: skip
                if out_scales is not None:
                    tl.store(out_squares + token * G + head, square * (out_scale * out_scale))
    begin(OVERLAPS)  # without a piece, too: the kernel after this one waits for this one alone
    if total > programs:  # noqa: SIM102 - `and` would count who is done in any case
        if tl.atomic_add(dealt + 1, 1, sem="relaxed") == programs - 1:
            tl.store(dealt, 0)
            tl.store(dealt + 1, 0)


class SomeRows:
    """See `tradewind.kernels.fused_attention.FusedAttention`. Owns the memory that pieces meet in."""

    def __init__(self, device: torch.device, chip: Chip) -> None:
        self._chip = chip
        most = max(tile.programs for tile in (*SMALL.values(), *CROWDED.values()))
        pieces = pieces_of(_ROUNDS) * most * chip.processors
        absent = torch.full((pieces * (_WIDEST + _MOST_QUERIES),), ABSENT.value, dtype=torch.int32, device=device)
        absent = absent.view(torch.float32)
        self._partials, self._marks = absent[: pieces * _WIDEST], absent[pieces * _WIDEST :]
        self._dealt = torch.zeros(2, dtype=torch.int32, device=device)

    def takes(self, rows: Rows, shape: HeadShape) -> bool:
        """See FusedAttention."""
        few = rows.max_query == 1 and 1 < len(rows.context_lens_R) <= FEW_TOKENS
        group, width = (next_power_of_2(size) for size in (shape.queries_per_kv, shape.head_dim))
        return few and group <= _MOST_QUERIES and group * max(width, _LEAST_WIDTH) <= _WIDEST

    def __call__(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> Tensor:
        """See FusedAttention."""
        out_TC = qkv_TC.new_empty(len(qkv_TC), heads.shape.heads * heads.shape.head_dim)
        self._run(qkv_TC, rows, (k_pages_BGSK, v_pages_BGSK), heads, out_TC)
        return out_TC

    def quantised(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> MeasuredRows:
        """See FusedAttention."""
        assert heads.largest is not None
        shape, tokens = heads.shape, len(qkv_TC)
        out_TC = qkv_TC.new_empty((tokens, shape.heads * shape.head_dim), dtype=FP8)
        scales_T1 = qkv_TC.new_empty((tokens, 1), dtype=torch.float32)
        squares_TG = qkv_TC.new_empty((tokens, shape.kv_heads), dtype=torch.float32)
        self._run(qkv_TC, rows, (k_pages_BGSK, v_pages_BGSK), heads, out_TC, (scales_T1, squares_TG))
        return MeasuredRows(out_TC, scales_T1, qkv_TC.dtype, squares_TG)

    def _run(
        self,
        qkv_TC: Tensor,
        rows: Rows,
        pages: tuple[Tensor, Tensor],
        heads: LayerHeads,
        out_TC: Tensor,
        of_8_bits: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:
        k_pages_BGSK, v_pages_BGSK = pages
        shape, (_, kv_heads, block_tokens, head_dim) = heads.shape, k_pages_BGSK.shape
        count, itemsize, group = len(rows.context_lens_R), k_pages_BGSK.dtype.itemsize, shape.queries_per_kv
        width, group_padded = max(_LEAST_WIDTH, next_power_of_2(head_dim)), next_power_of_2(group)
        tile = tile_of(itemsize, count, shape, quantises=of_8_bits[0] is not None)
        tile = fitted(tile, self._chip, width, itemsize)
        parts = parts_of(group_padded, width, tile.warps)
        # A program that waits keeps its place: all must have one, or what it waits for might never begin. Triton's
        # interpreter does one program after the other, so there is one.
        shares = resident(tile, self._chip, width, itemsize)
        programs = shares if qkv_TC.is_cuda else 1
        step = max(16, math.gcd(tile.keys, block_tokens))  # keys that a piece is a multiple of
        largest = FP8_MAX if heads.largest is None else heads.largest
        some_rows_kernel[(programs,)](
            qkv_TC, qkv_TC.stride(0), rows.positions_T, rows.write_T, rows.query_starts_R1, rows.context_lens_R,
            rows.block_tables_RM, rows.block_tables_RM.stride(0), heads.cos_sin_PK, heads.q_norm_K, heads.k_norm_K,
            heads.eps, k_pages_BGSK, v_pages_BGSK, k_pages_BGSK.stride(0), out_TC, *of_8_bits, self._partials,
            self._marks, self._dealt, count, shares, heads.window or NO_WINDOW, max(LEAST_SPLIT, step),
            heads.scale * LOG2_E, (heads.softcap or 0.0) * LOG2_E, largest / FP8_MAX, FP8_MAX / largest, G=kv_heads,
            GROUP=group, K=head_dim, KP=width, BM=tile.rows, BN=tile.keys, BLOCK_R=padded_count(count), S=block_tokens,
            RUN=math.gcd(tile.keys, block_tokens), HAS_NORM=heads.q_norm_K is not None,
            HAS_WINDOW=heads.window is not None, HAS_SOFTCAP=heads.softcap is not None, EIGHT_BITS=itemsize == 1,
            IN_PAIRS=itemsize == 1 and tile.in_pairs and head_dim % 2 == 0, IN_HARDWARE=self._chip.has_fp8,
            OVERLAPS=self._chip.overlaps, STAGES=tile.stages, STEP=step, ROUNDS=min(_ROUNDS, tile.rounds),
            GP=group_padded, AT_ONCE=at_once(parts), PARTS=parts,
            IN_TURN=not qkv_TC.is_cuda, num_warps=tile.warps, num_stages=tile.stages, maxnreg=registers_of(tile, width),
            **self._chip.launch,
        )  # fmt: skip


def tile_of(itemsize: int, rows: int, shape: HeadShape, *, quantises: bool) -> Tile:
    """As for any rows of few queries, but that of narrow heads of 16 bits twice the keys leave no registers for what
    quantises, and measures, what comes out.
    """
    tile = small_tile(itemsize, rows, shape.head_dim, shape.queries_per_kv)
    is_full = quantises and itemsize == 2 and shape.head_dim <= _NARROW and tile.warps < 4
    return replace(tile, keys=tile.keys // 2) if is_full else tile


def registers_of(tile: Tile, width: int) -> int:
    """The most that a thread may have, so that all programs of a multiprocessor have room.

    The next kernel waits beside them: without room for one of its programs on each multiprocessor, it would begin where
    attention is over first, many programs in one place. Narrow heads, with twice the keys at a time, need all, and so
    do programs of four warps, whose products Triton 3.9 makes of an instruction that takes more.
    """
    left = _REGISTERS - (_BESIDE if width > _NARROW and tile.warps < 4 else 0)
    return min(_MOST_REGISTERS, left // (32 * tile.warps * tile.programs) // 8 * 8)


def at_once(parts: int) -> int:
    """How many pieces are looked at at once, if a thread has so many numbers of each: it has all in registers."""
    return max(1, min(_MOST_AT_ONCE, _NUMBERS_AT_ONCE // parts))
