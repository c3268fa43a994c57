"""Attention of a tile of few queries, in Triton: keys are the rows of a product, and queries its columns.

The tensor cores take sixteen rows at once, but only eight columns, and a key-value head seldom has more queries. Of
products, sums and exponentials it is half of what there would be with queries as rows, and values come transposed from
shared memory as they are.

Legend as in triton.py.
"""

import triton
from triton import language as tl

from tradewind.kernels.paged_attention.parts import blocks_of, capped, halves, places_of, weighed


@triton.jit
def attend_few(
    q_tile, k_pages, v_pages, block_stride, table, position, head, lo, hi, whole_end, window_end, window, scale,
    softcap, K: tl.constexpr, KP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr,
    HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, EXACT_DOT: tl.constexpr, IN_PAIRS: tl.constexpr,
    IN_HARDWARE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """See `tradewind.kernels.paged_attention.triton.attend`.

    The blocks of the next keys are looked up one step ahead: were they not, the loads of keys and values, which are
    asked for as far ahead as STAGES allows, would each wait for them.
    """
    dtype = q_tile.dtype
    q_columns = tl.trans(q_tile)
    peak = tl.full([BM], float("-inf"), tl.float32)
    mass = tl.zeros([BM], tl.float32)
    acc = tl.zeros([KP, BM], tl.float32)
    even = tl.zeros([KP // 2, BM], tl.float32)
    odd = tl.zeros([KP // 2, BM], tl.float32)
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
            k_tile = tl.load(k_pages + at[:, None] + column[None, :])
        else:
            k_tile = tl.load(k_pages + at[:, None] + column[None, :], mask=(column < K)[None, :], other=0.0)
        scores = tl.dot(k_tile.to(dtype), q_columns, input_precision="ieee" if EXACT_DOT else "tf32")
        if HAS_SOFTCAP:
            scores = capped(scores * scale, softcap)
        is_cut = start + BN > whole_end
        if HAS_WINDOW:
            is_cut |= start < window_end
        if is_cut:
            seen = (key[:, None] <= position[None, :]) & there[:, None]
            if HAS_WINDOW:
                seen &= key[:, None] > position[None, :] - window
            scores = tl.where(seen, scores, float("-inf"))
        weights, fade, peak, mass = weighed(scores, scale, peak, mass, HAS_SOFTCAP, 0)
        weights = weights.to(dtype)
        if IN_PAIRS:
            v_at = v_pages.to(tl.pointer_type(tl.int16), bitcast=True) + (at >> 1)[None, :] + pair[:, None]
            if K == KP:
                words = tl.load(v_at, mask=there[None, :], other=0)
            else:
                words = tl.load(v_at, mask=there[None, :] & (pair < K // 2)[:, None], other=0)
            low, high = halves(words, IN_HARDWARE)
            even = tl.dot(low, weights, even * fade[None, :])
            odd = tl.dot(high, weights, odd * fade[None, :])
        else:
            v_at = v_pages + at[None, :] + column[:, None]
            if K == KP:
                v_tile = tl.load(v_at, mask=there[None, :], other=0.0)
            else:
                v_tile = tl.load(v_at, mask=there[None, :] & (column < K)[:, None], other=0.0)
            acc = acc * fade[None, :]
            acc = tl.dot(v_tile.to(dtype), weights, acc, input_precision="ieee" if EXACT_DOT else "tf32")
    acc = tl.reshape(tl.permute(tl.join(even, odd), (1, 0, 2)), [BM, KP]) if IN_PAIRS else tl.trans(acc)
    return peak if HAS_SOFTCAP else peak * scale, mass, acc
