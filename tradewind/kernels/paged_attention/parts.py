"""Parts of the Triton kernels: where keys and values lie, numbers of 8 bits, and the softmax, tile after tile.

The online softmax is that of https://arxiv.org/abs/2205.14135. Legend as in triton.py.
"""

import triton
from triton import language as tl


@triton.jit
def blocks_of(table, start, lo, hi, BN: tl.constexpr, RUN: tl.constexpr, S: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """The block of each RUN keys from `start` on; keys outside of [lo, hi) are looked up at its ends."""
    key = tl.minimum(start + tl.arange(0, BN // RUN) * RUN, hi - 1)
    if HAS_WINDOW:
        key = tl.maximum(key, lo)
    return tl.load(table + key // S)


@triton.jit
def places_of(block, key, head, block_stride, K: tl.constexpr, S: tl.constexpr, RUN: tl.constexpr):
    """Where keys of a head begin in the pages, and their values. `block`, `key`: of the first of each run."""
    run_at = block.to(tl.int64) * block_stride + head * (S * K)
    in_run = tl.arange(0, RUN) * K
    if RUN != S:
        run_at += key % S * K
    at = tl.reshape(run_at[:, None] + in_run[None, :], [block.shape[0] * RUN])
    if K % 16 == 0:
        at = tl.multiple_of(at, 16)
    return at


@triton.jit
def halves(words, IN_HARDWARE: tl.constexpr):
    """The two 8-bit floats of each 16-bit word as float16: (those of the lower bytes, those of the upper ones)."""
    if IN_HARDWARE:
        # Of two words at once: lower bytes beside each other, upper bytes beside each other, two conversions.
        return tl.inline_asm_elementwise(
            "{ .reg .b32 t; .reg .b16 a, b; prmt.b32 t, $2, 0, 0x3120; mov.b32 {a, b}, t; "
            "cvt.rn.f16x2.e4m3x2 $0, a; cvt.rn.f16x2.e4m3x2 $1, b; }",
            "=r,=r,r", [words], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
    low = words.to(tl.uint8, bitcast=False).to(tl.float8e4nv, bitcast=True).to(tl.float16)
    high = (words >> 8).to(tl.uint8, bitcast=False).to(tl.float8e4nv, bitcast=True).to(tl.float16)
    return low, high


@triton.jit
def capped(scores, softcap):
    """softcap * tanh(scores / softcap)."""
    # tanh(x) = 1 - 2 / (exp(2x) + 1), and exp(2x) = exp2(2 log2(e) x)
    return softcap * (1.0 - 2.0 / (tl.exp2(scores * (2.8853900817779268 / softcap)) + 1.0))


@triton.jit
def weighed(scores, scale, peak, mass, HAS_SOFTCAP: tl.constexpr, KEYS: tl.constexpr):
    """(weights, fade, peak, mass) with these keys' scores: what was summed before them fades.

    KEYS: the scores' axis of the keys. `scale`, for base-2 exponentials, is a number, or one for each query, as `peak`
    and `mass` are; scores that are capped have it already, and their peak then, too.
    """
    new_peak = tl.maximum(peak, tl.max(scores, KEYS))
    base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    if HAS_SOFTCAP:
        weights = tl.exp2(scores - tl.expand_dims(base, KEYS))
        fade = tl.exp2(peak - base)
    else:
        base *= scale
        each_scale = scale + tl.zeros(peak.shape, tl.float32)
        weights = tl.exp2(scores * tl.expand_dims(each_scale, KEYS) - tl.expand_dims(base, KEYS))
        fade = tl.exp2(peak * scale - base)
    return weights, fade, new_peak, mass * fade + tl.sum(weights, KEYS)
