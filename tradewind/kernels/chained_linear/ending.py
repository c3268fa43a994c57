"""What comes after a chained product's sums, where a program has all of an output's, in Gluon."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def finish(
    found, rest, gains, rise, up_rise, residual, y, y_squares, y_at, squares_at, inside, inside_T,
    GATED: gl.constexpr, HAS_BIAS: gl.constexpr, ADDS: gl.constexpr, LY: gl.constexpr, LG: gl.constexpr,
):  # fmt: skip
    """Gate, add and store `found` [outputs], or [outputs, TT], in layout LY.

    GATED: it is gates, then as many others, of which each thread has all in layout LG. ADDS: `rest` is added to it, the
    sum is written over `residual`, its squares' sum to `y_squares`, and what is stored is that times `gains`. What is
    not needed of the arguments is not looked at.
    """
    if GATED:
        found = gl.convert_layout(found, LG)
        if len(found.shape) == 1:
            halves = gl.permute(gl.reshape(found, [2, found.shape[0] // 2]), (1, 0))
        else:
            halves = gl.permute(gl.reshape(found, [2, found.shape[0] // 2, found.shape[1]]), (1, 2, 0))
        gate, up = gl.split(halves)
        gate, up = gl.convert_layout(gate, LY), gl.convert_layout(up, LY)
        if HAS_BIAS:
            gate += rise
            up += up_rise
        result = gate / (1.0 + gl.exp(-gate)) * up
    else:
        result = gl.convert_layout(found, LY)
        if HAS_BIAS:
            result += rise
    if ADDS:
        total = (result + rest).to(residual.dtype.element_ty)
        gl.store(residual + y_at, total, mask=inside)
        result = total.to(gl.float32)
        gl.store(y_squares + squares_at, gl.sum(result * result, 0), mask=inside_T)
        result *= gains
    gl.store(y + y_at, result.to(y.dtype.element_ty), mask=inside)
