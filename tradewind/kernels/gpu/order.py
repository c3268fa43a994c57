"""Parts of Triton kernels that order them among each other (see the package)."""

import triton
from triton import language as tl


@triton.jit
def begin(OVERLAPS: tl.constexpr):
    """Let the next kernel start when it finds room, then wait for all that the kernels before this one wrote."""
    if OVERLAPS:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def prefetch(start, THREADS: tl.constexpr, BYTES: tl.constexpr):
    """Ask for `THREADS * BYTES` bytes from `start` (16-byte aligned; BYTES a multiple of 16) to be brought into L2."""
    address = start.to(tl.int64) + tl.arange(0, THREADS).to(tl.int64) * BYTES
    size = tl.full([THREADS], BYTES, tl.int32)
    tl.inline_asm_elementwise(
        "{ cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0; }",
        "=r,l,r",
        [address, size],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
