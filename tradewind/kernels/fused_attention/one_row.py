"""fused_attention of one row, in Triton: a program for the token itself, and one for each piece of what was before.

All but the token's own row was there before this step: a program has its keys and values at hand before it waits for
that row. So what follows, one after the other, is the row, one tile of keys, and what the other programs of the head
found. The token's own program adds all of it up, in the order of the pieces (pieces.py).

Legend beyond the package's: BM rows of a tile (the queries of a key-value head), BN keys at a time.
"""

import math
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_attention.pieces import ABSENT, add_up, at_once, parts_of
from tradewind.kernels.fused_attention.token_row import gains, in_page, load_heads, rotated
from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import ask_for_vectors, begin, release
from tradewind.kernels.paged_attention.parts import capped, halves, places_of
from tradewind.kernels.paged_attention.triton import LOG2_E, NO_WINDOW, attend
from tradewind.kernels.pages import to_next_layer
from tradewind.kernels.quantised_rows import FP8
from tradewind.kernels.rows import HeadShape, Rows


@triton.jit
def _load_tile(
    k_pages, v_pages, block_stride, table, head, start, lo, hi, column, dtype: tl.constexpr, K: tl.constexpr,
    KP: tl.constexpr, BN: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr, IN_PAIRS: tl.constexpr,
    IN_HARDWARE: tl.constexpr,
):  # fmt: skip
    """Keys [KP, BN] and values [BN, KP] from key `start` on, in `dtype`; 0 outside of [lo, hi)."""
    run = start + tl.arange(0, BN // RUN) * RUN
    block = tl.load(table + run // S, mask=run < hi, other=0)
    at = places_of(block, run, head, block_stride, K, S, RUN)
    key = start + tl.arange(0, BN)
    there = (key >= lo) & (key < hi)
    k_at = k_pages + at[None, :] + column[:, None]
    k_tile = tl.load(k_at, mask=there[None, :] & (column < K)[:, None], other=0.0)
    if IN_PAIRS:
        pair = tl.arange(0, KP // 2)
        v_at = v_pages.to(tl.pointer_type(tl.int16), bitcast=True) + (at >> 1)[:, None] + pair[None, :]
        words = tl.load(v_at, mask=there[:, None] & (pair < K // 2)[None, :], other=0)
        low, high = halves(words, IN_HARDWARE)
        v_tile = tl.reshape(tl.join(low, high), [BN, KP])
    else:
        v_at = v_pages + at[:, None] + column[None, :]
        v_tile = tl.load(v_at, mask=there[:, None] & (column < K)[None, :], other=0.0)
    return k_tile.to(dtype), v_tile.to(dtype)


@triton.jit
def _merged(peak, mass, acc, other_peak, other_mass, other_acc):
    """Two parts of a softmax as one; something is seen in either."""
    new_peak = tl.maximum(peak, other_peak)
    fade, other_fade = tl.exp2(peak - new_peak), tl.exp2(other_peak - new_peak)
    acc = acc * fade[:, None] + other_acc * other_fade[:, None]
    return new_peak, mass * fade + other_mass * other_fade, acc


@triton.jit
def one_row_kernel(
    qkv, positions, write, context_lens, table, cos_sin, q_norm, k_norm, eps, k_pages, v_pages, block_stride,
    next_layer, out, partials, marks, window, scale, softcap,
    G: tl.constexpr, GROUP: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, GP: tl.constexpr,
    BN: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr, STEP: tl.constexpr, HAS_NORM: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, IN_PAIRS: tl.constexpr, IN_HARDWARE: tl.constexpr,
    OVERLAPS: tl.constexpr, RELEASES: tl.constexpr, STAGES: tl.constexpr, AT_ONCE: tl.constexpr,
    PARTS: tl.constexpr, IN_TURN: tl.constexpr,
):  # fmt: skip
    """Program (g, i): the i-th piece of what was there before, for key-value head g; the last one of a head: the token
    itself, and then the sum of all.

    GP: GROUP, filled up. RUN, IN_PAIRS (for pages of 8 bits), IN_HARDWARE, `scale`, `softcap`: as for
    `paged_attention_kernel`. AT_ONCE, PARTS, IN_TURN: as for `add_up`, and so are `partials` [G, programs, GP, KP] and
    `marks` [G, programs, GP]. next_layer: so many numbers further on lie the next layer's keys and values. RELEASES:
    the next kernel may begin at once, and the first tiles are made ready to be multiplied before the row is there.
    """
    head, part = tl.program_id(0), tl.program_id(1)
    release(OVERLAPS and RELEASES)
    column = tl.arange(0, KP)
    inside = column < K
    # What was there before: the keys [seen_first, last), cut into pieces from the beginning of a run on.
    last = tl.load(context_lens) - 1
    seen_first = tl.maximum(last + 1 - window, 0) if HAS_WINDOW else 0
    floor = seen_first // RUN * RUN
    span = tl.where(seen_first < last, last - floor, 0)
    most = tl.maximum(tl.minimum(tl.cdiv(span, BN), tl.num_programs(1) - 1), 1)
    split = tl.maximum(tl.cdiv(tl.cdiv(span, most), STEP), 1) * STEP
    pieces = tl.cdiv(span, split)
    is_own = part == tl.num_programs(1) - 1
    if part >= pieces and not is_own:
        begin(OVERLAPS)  # without a piece, too: the kernel after this one waits for this one alone
    else:
        position = tl.load(positions).to(tl.int64)
        pair = tl.where(column < K // 2, column, column - K // 2)
        cos = tl.load(cos_sin + position * K + pair, mask=inside, other=0.0)
        sin = tl.load(cos_sin + position * K + K // 2 + pair, mask=inside, other=0.0)
        sin = tl.where(column < K // 2, -sin, sin)
        q_gain, swapped_q_gain = gains(q_norm, column, cos, K, HAS_NORM)
        q_type = qkv.dtype.element_ty
        partials += head * tl.num_programs(1) * (GP * KP)
        marks += head * tl.num_programs(1) * GP
        if is_own:
            to = tl.load(write)
            to = (to // S) * block_stride + head * (S * K) + to % S * K + column
            k_gain, swapped_k_gain = gains(k_norm, column, cos, K, HAS_NORM)
            begin(OVERLAPS)
            own = tl.arange(0, GP)
            own_at = qkv + ((head * GROUP + tl.minimum(own, GROUP - 1)) * K)[:, None]
            own_a, own_b = load_heads(own_at, column, K)
            own_q = rotated(own_a, own_b, q_gain, swapped_q_gain, cos, sin, eps, K, HAS_NORM).to(q_type)
            new_at = qkv + (G * GROUP + head) * K + tl.zeros([1, 1], tl.int32)
            new_a, new_b = load_heads(new_at, column, K)
            new_k = rotated(new_a, new_b, k_gain, swapped_k_gain, cos, sin, eps, K, HAS_NORM)
            new_k = in_page(new_k, k_pages)
            new_v = tl.load(new_at + G * K + column[None, :], mask=inside[None, :], other=0.0)
            new_v = in_page(new_v.to(tl.float32), v_pages)
            tl.store(k_pages + to[None, :], new_k, mask=inside[None, :])
            tl.store(v_pages + to[None, :], new_v, mask=inside[None, :])
            own_score = tl.sum(own_q.to(tl.float32) * new_k.to(tl.float32), 1) * scale
            if HAS_SOFTCAP:
                own_score = capped(own_score, softcap)
            own_place = pieces * GP + own
            own_value = tl.broadcast_to(new_v.to(tl.float32), [GP, KP])
            tl.store(partials + (own_place * KP)[:, None] + column[None, :], own_value, mask=(own < GROUP)[:, None])
            tl.store(marks + own_place, own_score, mask=own < GROUP)
            add_up(
                out + head * (GROUP * K), None, partials, marks, pieces + 1, GROUP, GP, K, KP, AT_ONCE, PARTS, IN_TURN
            )
        else:
            start = floor + part * split
            lo, hi = tl.maximum(start, seen_first), tl.minimum(start + split, last)
            dtype: tl.constexpr = tl.float16 if IN_PAIRS else q_type
            k_tile, v_tile = _load_tile(
                k_pages, v_pages, block_stride, table, head, start, lo, hi, column, dtype, K, KP, BN, S, RUN, IN_PAIRS,
                IN_HARDWARE,
            )  # fmt: skip
            if RELEASES:
                # Products with nothing: only for a product are tiles moved to where the tensor cores want them.
                none = tl.dot(tl.zeros([BM, KP], dtype), k_tile)
                nothing = tl.dot(tl.zeros([BM, BN], dtype), v_tile)
            else:
                none = tl.zeros([BM, BN], tl.float32)
                nothing = tl.zeros([BM, KP], tl.float32)
            begin(OVERLAPS)
            row = tl.arange(0, BM)
            q_at = qkv + ((head * GROUP + tl.minimum(row, GROUP - 1)) * K)[:, None]
            q_a, q_b = load_heads(q_at, column, K)
            q_tile = rotated(q_a, q_b, q_gain, swapped_q_gain, cos, sin, eps, K, HAS_NORM).to(q_type).to(dtype)
            scores = tl.dot(q_tile, k_tile, none) * scale
            if HAS_SOFTCAP:
                scores = capped(scores, softcap)
            key = start + tl.arange(0, BN)
            scores = tl.where(((key >= lo) & (key < hi))[None, :], scores, float("-inf"))
            peak = tl.max(scores, 1)
            weights = tl.exp2(scores - peak[:, None])
            acc = tl.dot(weights.to(dtype), v_tile, nothing)
            mass = tl.sum(weights, 1)
            if start + BN < hi:
                # All of these keys are seen by all queries.
                query = tl.full([BM], 0, tl.int32) + last
                more_peak, more_mass, more_acc = attend(
                    q_tile, q_tile, k_pages, v_pages, block_stride, table, query, head, start + BN, hi, hi, 0, 0,
                    scale, softcap, K, KP, BM, BN, S, RUN, False, HAS_SOFTCAP, False, IN_PAIRS, False, IN_HARDWARE,
                    STAGES,
                )  # fmt: skip
                peak, mass, acc = _merged(peak, mass, acc, more_peak, more_mass, more_acc)
            counts = row < GROUP
            place = part * GP + row
            tl.store(partials + (place * KP)[:, None] + column[None, :], acc / mass[:, None], mask=counts[:, None])
            tl.store(marks + place, peak + tl.log2(mass), mask=counts)
            if OVERLAPS:
                # Until the token's own program is through, memory idles: the next layer's first tiles come meanwhile.
                key = tl.minimum(start + tl.arange(0, BN), hi - 1)
                at = tl.load(table + key // S).to(tl.int64) * block_stride + head * (S * K) + key % S * K + next_layer
                ask_for_vectors(tl.join(k_pages + at, v_pages + at), K)


@dataclass(frozen=True)
class Tile:
    """How it is launched. `releases`: the product after it has its first weights brought meanwhile."""

    keys: int
    warps: int
    stages: int
    releases: bool = False
    registers: int | None = None  # of a thread, at most


_TILE = Tile(128, 8, 3)  # measured on an H200, with pages of 16 bits and of 8
_SHORT = 8192  # keys, up to which two stages are as fast as three, and leave the product after it room for more weights
_BESIDE = 128  # registers of a thread, so that programs of the product after it have room beside two of its programs
_FEW_QUERIES = 8  # of a key-value head, for which so many registers are enough
_MOST_PROGRAMS = 64  # of a key-value head
_MOST_QUERIES = 16  # of a key-value head
_WIDEST = 128


def tile_on(chip: Chip, max_context: int, key_bytes: int, queries: int, *, releases: bool) -> Tile:
    """How it is launched there. `key_bytes`: of a head's key and its value. `queries`: of a key-value head."""
    releases &= chip.overlaps
    has_two = not chip.overlaps or (releases and max_context <= _SHORT)
    stages = chip.stages(2 if has_two else _TILE.stages, _TILE.keys * key_bytes)
    registers = _BESIDE if releases and has_two and queries <= _FEW_QUERIES else None
    return replace(_TILE, stages=stages, releases=releases, registers=registers)


class OneRow:
    """See `tradewind.kernels.fused_attention.FusedAttention`. Owns the memory that pieces meet in.

    `releases`: the product after it gains by beginning early. Measured on an H100, over pages of 8 bits: weights in
    8-bit floats do, others do not.
    """

    def __init__(self, device: torch.device, chip: Chip, *, releases: bool = False) -> None:
        self._chip = chip
        self._releases = releases
        places = chip.processors * _MOST_QUERIES
        absent = torch.full((places * (_WIDEST + 1),), ABSENT.value, dtype=torch.int32, device=device)
        absent = absent.view(torch.float32)
        self._partials, self._marks = absent[: places * _WIDEST], absent[places * _WIDEST :]

    def takes(self, rows: Rows, shape: HeadShape) -> bool:
        """See FusedAttention. Long contexts of few key-value heads would leave half of the chip without work."""
        if len(rows.write_T) != 1 or len(rows.context_lens_R) != 1:
            return False
        if shape.head_dim > _WIDEST or shape.queries_per_kv > _MOST_QUERIES:
            return False
        programs = self._programs(shape.kv_heads)
        return programs > 1 and 2 * programs * shape.kv_heads >= self._chip.processors

    def _programs(self, kv_heads: int) -> int:
        """Of each key-value head."""
        return min(self._chip.processors // kv_heads, _MOST_PROGRAMS)

    def __call__(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> Tensor:
        shape, (_, kv_heads, block_tokens, head_dim) = heads.shape, k_pages_BGSK.shape
        group, group_padded = shape.queries_per_kv, next_power_of_2(shape.queries_per_kv)
        width, eight_bits = max(32, next_power_of_2(head_dim)), k_pages_BGSK.dtype == FP8
        key_bytes, releases = 2 * width * k_pages_BGSK.dtype.itemsize, self._releases and eight_bits
        tile = tile_on(self._chip, rows.max_context, key_bytes, group_padded, releases=releases)
        run = math.gcd(tile.keys, block_tokens)
        out_TC = torch.empty(1, shape.heads * head_dim, dtype=qkv_TC.dtype, device=qkv_TC.device)
        one_row_kernel[(kv_heads, self._programs(kv_heads))](
            qkv_TC, rows.positions_T, rows.write_T, rows.context_lens_R, rows.block_tables_RM, heads.cos_sin_PK,
            heads.q_norm_K, heads.k_norm_K, heads.eps, k_pages_BGSK, v_pages_BGSK, k_pages_BGSK.stride(0),
            to_next_layer(k_pages_BGSK, v_pages_BGSK), out_TC, self._partials, self._marks, heads.window or NO_WINDOW,
            heads.scale * LOG2_E, (heads.softcap or 0.0) * LOG2_E, G=kv_heads, GROUP=group, K=head_dim, KP=width,
            BM=max(16, group_padded), GP=group_padded, BN=tile.keys, S=block_tokens, RUN=run, STEP=max(16, run),
            HAS_NORM=heads.q_norm_K is not None, HAS_WINDOW=heads.window is not None,
            HAS_SOFTCAP=heads.softcap is not None, IN_PAIRS=eight_bits, IN_HARDWARE=self._chip.has_fp8,
            OVERLAPS=self._chip.overlaps, RELEASES=tile.releases, STAGES=tile.stages, AT_ONCE=at_once(group_padded),
            PARTS=parts_of(group_padded, width, tile.warps), IN_TURN=not qkv_TC.is_cuda, num_warps=tile.warps,
            num_stages=tile.stages, maxnreg=tile.registers, **self._chip.launch,
        )  # fmt: skip
        return out_TC
