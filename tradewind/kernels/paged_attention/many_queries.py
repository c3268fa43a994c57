"""Attention of a tile of many queries, in Triton: as a rule more than the tensor cores take at once.

Legend as in triton.py.
"""

import triton
from triton import language as tl

from tradewind.kernels.paged_attention.parts import blocks_of, capped, halves, places_of, weighed


@triton.jit
def _to_four_bits(wide):
    """The nearest numbers of four significant bits, which is what those of 8 bits have."""
    return ((wide.to(tl.int32, bitcast=True) + 0x80000) & -0x100000).to(tl.float32, bitcast=True)


@triton.jit
def in_two(q_tile):
    """(first, rest, factor): the rows of q_tile are (first + rest) * factor[:, None], both in 8 bits, to 2^-8 of each.

    That is half as exact as bfloat16. Both are rounded before they are cast, which then has nothing left to round. What
    is not a number makes its row's factor none.
    """
    wide = q_tile.to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(wide), 1), 1e-30)
    factor = (largest + 0.0 * tl.sum(wide, 1)) / 448.0
    wide *= (448.0 / largest)[:, None]
    first = _to_four_bits(wide)
    rest = _to_four_bits(wide - first)
    return first.to(tl.float8e4nv), rest.to(tl.float8e4nv), factor


@triton.jit
def attend_many(
    q_tile, q_rest, k_pages, v_pages, block_stride, table, position, head, lo, hi, whole_end, window_end, window, scale,
    softcap, K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EXACT_DOT: tl.constexpr, IN_PAIRS: tl.constexpr,
    IN_TWO: tl.constexpr, IN_HARDWARE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """See `tradewind.kernels.paged_attention.triton.attend`."""
    dtype = tl.float16 if IN_TWO else q_tile.dtype
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, KP], tl.float32)
    even = tl.zeros([BM, KP // 2], tl.float32)
    odd = tl.zeros([BM, KP // 2], tl.float32)
    column = tl.arange(0, KP)
    pair = tl.arange(0, KP // 2)
    offset = tl.arange(0, BN)
    run = tl.arange(0, BN // RUN) * RUN
    first = lo // BN * BN if HAS_WINDOW else lo
    block = blocks_of(table, first, lo, hi, BN, RUN, S, HAS_WINDOW)
    for start in tl.range(first, hi, BN, num_stages=STAGES):
        key = start + offset
        there = (key >= lo) & (key < hi) if HAS_WINDOW else key < hi
        at = places_of(block, start + run, head, block_stride, K, S, RUN)
        block = blocks_of(table, start + BN, lo, hi, BN, RUN, S, HAS_WINDOW)
        if K == KP:
            k_tile = tl.load(k_pages + at[None, :] + column[:, None])
        else:
            k_tile = tl.load(k_pages + at[None, :] + column[:, None], mask=(column < K)[:, None], other=0.0)
        if IN_TWO:
            scores = tl.dot(q_rest, k_tile, tl.dot(q_tile, k_tile))
        else:
            scores = tl.dot(q_tile, k_tile.to(dtype), input_precision="ieee" if EXACT_DOT else "tf32")
        if HAS_SOFTCAP:
            scores = capped(scores * (scale[:, None] if IN_TWO else scale), softcap)
        is_cut = start + BN > whole_end
        if HAS_WINDOW:
            is_cut |= start < window_end
        if is_cut:
            seen = (key[None, :] <= position[:, None]) & there[None, :]
            if HAS_WINDOW:
                seen &= key[None, :] > position[:, None] - window
            scores = tl.where(seen, scores, float("-inf"))
        weights, fade, peak, mass = weighed(scores, scale, peak, mass, HAS_SOFTCAP, 1)
        weights = weights.to(dtype)
        if IN_PAIRS:
            v_at = v_pages.to(tl.pointer_type(tl.int16), bitcast=True) + (at >> 1)[:, None] + pair[None, :]
            if K == KP:
                words = tl.load(v_at, mask=there[:, None], other=0)
            else:
                words = tl.load(v_at, mask=there[:, None] & (pair < K // 2)[None, :], other=0)
            low, high = halves(words, IN_HARDWARE)
            if IN_TWO:
                v_tile = tl.reshape(tl.permute(tl.join(low, high), (0, 2, 1)), [BN, KP])
                acc = tl.dot(weights, v_tile, acc * fade[:, None])
            else:
                even = tl.dot(weights, low, even * fade[:, None])
                odd = tl.dot(weights, high, odd * fade[:, None])
        else:
            v_at = v_pages + at[:, None] + column[None, :]
            if K == KP:
                v_tile = tl.load(v_at, mask=there[:, None], other=0.0)
            else:
                v_tile = tl.load(v_at, mask=there[:, None] & (column < K)[None, :], other=0.0)
            acc = acc * fade[:, None]
            acc = tl.dot(weights, v_tile.to(dtype), acc, input_precision="ieee" if EXACT_DOT else "tf32")
    if IN_PAIRS and IN_TWO:
        acc = tl.reshape(tl.permute(tl.reshape(acc, [BM, 2, KP // 2]), (0, 2, 1)), [BM, KP])
    elif IN_PAIRS:
        acc = tl.reshape(tl.join(even, odd), [BM, KP])
    return peak if HAS_SOFTCAP else peak * scale, mass, acc
