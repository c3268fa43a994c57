"""What the kernels in Gluon share: products with 4-bit weights, and what comes after an output's sums."""

from typing import TYPE_CHECKING

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from tradewind.kernels.chained_linear import PreparedRows
from tradewind.kernels.fused_linear.decoding import unpack_pairs
from tradewind.kernels.fused_linear.triton import Reading
from tradewind.kernels.gpu import next_power_of_2
from tradewind.kernels.linear import LinearWeight

if TYPE_CHECKING:
    from tradewind.kernels.chained_linear.triton import Launch, Place


@gluon.jit
def multiply(acc, words, x_tile, scale, nothing, PART: gl.constexpr, IN_PAIRS: gl.constexpr):
    """acc [W, rows, columns] plus the products with some numbers of a group of one part, scaled. `nothing`: zeros."""
    IS_BFLOAT16: gl.constexpr = x_tile.dtype == gl.bfloat16
    if IN_PAIRS:
        tile = gl.inline_asm_elementwise(
            unpack_pairs(PART, IS_BFLOAT16), "=r,r", [words], dtype=x_tile.dtype, is_pure=True, pack=2
        )
    else:
        tile = ((words >> (4 * PART)) & 15).to(x_tile.dtype) - 8
    return acc + mma_v2(tile, x_tile, nothing) * gl.expand_dims(scale.to(gl.float32), 2)


@gluon.jit
def finish(
    found, up, rest, gains, rise, up_rise, residual, y, y_squares, y_at, squares_at, inside, inside_T,
    GATED: gl.constexpr, HAS_BIAS: gl.constexpr, ADDS: gl.constexpr,
):  # fmt: skip
    """Gate, add and store `found` [outputs, TT].

    GATED: it is gates, and `up` what they are for. ADDS: `rest` is added to it, the sum is written over `residual`, its
    squares' sum to `y_squares`, and what is stored is that times `gains`. What is not needed of the arguments is not
    looked at.
    """
    if HAS_BIAS:
        found += rise
    if GATED:
        if HAS_BIAS:
            up += up_rise
        found = found / (1.0 + gl.exp(-found)) * up
    if ADDS:
        total = (found + rest).to(residual.dtype.element_ty)
        gl.store(residual + y_at, total, mask=inside)
        found = total.to(gl.float32)
        gl.store(y_squares + squares_at, gl.sum(found * found, 0), mask=inside_T)
        found *= gains
    gl.store(y + y_at, found.to(y.dtype.element_ty), mask=inside)


def constants(rows: PreparedRows, weight: LinearWeight, place: "Place", launch: "Launch") -> dict[str, object]:
    """Those that both kernels are compiled for, by what is asked of them, and how they are launched."""
    counts = 0 if rows.squares_GT is None else len(rows.squares_GT)
    return {
        "GROUP": Reading.of(weight).group, "NORMED": rows.squares_GT is not None, "GATED": place.gated,
        "HAS_BIAS": weight.bias_N is not None, "ADDS": place.residual_TN is not None, "IN_PAIRS": weight.data.is_cuda,
        "OVERLAPS": launch.chip.overlaps, "COUNTS": next_power_of_2(counts), "BN": launch.tactic.outputs,
        **launch.chip.launch,
    }  # fmt: skip
