"""Parts of Triton kernels that order them among each other (see the package)."""

import triton
from triton import language as tl


@triton.jit
def begin(OVERLAPS: tl.constexpr):
    """Wait for all that the kernels before this one wrote."""
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()


@triton.jit
def release(OVERLAPS: tl.constexpr):
    """Let the next kernel begin as soon as there is room for it beside the programs of this one."""
    if OVERLAPS:
        tl.extra.cuda.gdc_launch_dependents()
