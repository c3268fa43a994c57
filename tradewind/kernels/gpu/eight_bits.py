"""A part of Triton kernels that give 8-bit floats."""

import triton
from triton import language as tl


@triton.jit
def in_range(x):
    """float32 numbers, no larger than e4m3 can tell. What is no number stays so: its row must fail, not go on with some
    other.
    """
    return tl.clamp(x, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
