"""Parts of Triton kernels that order them among each other (see the package)."""

import triton
from triton import language as tl

_LINE_BITS = tl.constexpr(1024)


@triton.jit
def begin(OVERLAPS: tl.constexpr):
    """Wait for all that the kernels before this one wrote."""
    if OVERLAPS:
        tl.extra.cuda.gdc_wait()


@triton.jit
def release(OVERLAPS: tl.constexpr):
    """Let the next kernel begin as soon as there is room for it beside the programs of this one.

    At the start of small kernels, and of large ones where they are through with their inputs: what comes after one that
    has just begun to fill the chip would take places unevenly.
    """
    if OVERLAPS:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def ask_for(rows_at, columns):
    """Have the first `columns` numbers from each of these places, 256 bytes of them or a multiple, brought into the L2
    cache. Nobody waits for them.
    """
    LINE: tl.constexpr = _LINE_BITS // rows_at.dtype.element_ty.primitive_bitwidth
    at = rows_at[:, None] + tl.arange(0, 2)[None, :] * LINE
    for column in range(0, columns, 2 * LINE):
        _ask_for_lines(at + column)


@triton.jit
def ask_for_vectors(at, NUMBERS: tl.constexpr):
    """The same of so many numbers from each of these places."""
    LINE: tl.constexpr = _LINE_BITS // at.dtype.element_ty.primitive_bitwidth
    for number in tl.static_range(0, NUMBERS, LINE):
        _ask_for_lines(at + number)


@triton.jit
def _ask_for_lines(at):
    tl.inline_asm_elementwise(
        "{ prefetch.global.L2 [$1]; mov.u32 $0, 0; }", "=r,l", [at.to(tl.int64)], tl.int32, is_pure=False, pack=1
    )
