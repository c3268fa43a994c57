"""Parts of the Triton kernels: what becomes of a token's own row."""

import triton
from triton import language as tl

from tradewind.kernels.gpu.eight_bits import in_range


@triton.jit
def _swapped(column, K: tl.constexpr):
    """The columns that these are rotated with."""
    return tl.where(column < K // 2, column + K // 2, column - K // 2)


@triton.jit
def gains(norm, column, otherwise, K: tl.constexpr, HAS_NORM: tl.constexpr):
    """A norm's weight of the columns, and of those that they are rotated with."""
    if HAS_NORM:
        gain = tl.load(norm + column, mask=column < K, other=0.0).to(tl.float32)
        swapped_gain = tl.load(norm + _swapped(column, K), mask=column < K, other=0.0).to(tl.float32)
    else:
        gain = otherwise
        swapped_gain = otherwise
    return gain, swapped_gain


@triton.jit
def load_heads(at, column, K: tl.constexpr):
    """The heads at these places, [n, 1], and what their numbers are rotated with, each [n, KP]; 0 from column K on."""
    inside = (column < K)[None, :]
    a = tl.load(at + column[None, :], mask=inside, other=0.0)
    return a, tl.load(at + _swapped(column, K)[None, :], mask=inside, other=0.0)


@triton.jit
def rotated(a, b, gain, swapped_gain, cos, sin, eps, K: tl.constexpr, HAS_NORM: tl.constexpr):
    """Loaded heads, normed and rotated, float32. `sin` has its sign: number i becomes a * cos + b * sin."""
    a, b = a.to(tl.float32), b.to(tl.float32)
    if HAS_NORM:
        root = 1.0 / tl.sqrt(tl.sum(a * a, 1) / K + eps)
        a *= root[:, None] * gain[None, :]
        b *= root[:, None] * swapped_gain[None, :]
    return a * cos[None, :] + b * sin[None, :]


@triton.jit
def in_page(x, pages):
    """float32 numbers as pages hold them."""
    if pages.dtype.element_ty == tl.float8e4nv:
        x = in_range(x)
    return x.to(pages.dtype.element_ty)
