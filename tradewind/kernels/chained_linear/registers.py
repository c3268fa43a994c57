"""chained_linear of a few rows with 4-bit weights, in Gluon: words go from memory into the tensor cores' registers.

With so few rows a 4-bit weight is read faster than its instructions are issued, so there must be few of them. A thread
loads just those words whose numbers it has to give to the tensor cores, 16 bytes of an output at a time: which inputs
they belong to does not matter, as long as the rows are loaded alike. So nothing goes through shared memory, and no
thread waits for another one until the sums are there. The warps of a program share the inputs out among themselves.

Legend beyond the package's: BN outputs of a program, TT rows, filled up, BK inputs of each part at a time; W warps.
"""

from typing import TYPE_CHECKING

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tradewind.kernels.chained_linear import PreparedRows, diagonal
from tradewind.kernels.chained_linear.in_gluon import constants, finish, multiply
from tradewind.kernels.fused_linear.triton import Reading
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.tactics import ChainedTactic

if TYPE_CHECKING:
    from tradewind.kernels.chained_linear.triton import Launch, Place


def takes(tactic: ChainedTactic) -> bool:
    """Whether it is one of these: nothing is pipelined through shared memory."""
    return tactic.stages == 1 and not diagonal.takes(tactic)


@gluon.jit
def _scales(at, k, WIDTH, stride, GROUP: gl.constexpr):
    """Of the group that has input k of each part."""
    first, second = gl.load(at + k // GROUP * stride), gl.load(at + (WIDTH + k) // GROUP * stride)
    third, fourth = gl.load(at + (2 * WIDTH + k) // GROUP * stride), gl.load(at + (3 * WIDTH + k) // GROUP * stride)
    return first, second, third, fourth


@gluon.jit(do_not_specialize=["T", "COUNT"])
def registers_kernel(
    x, squares, w, scales, scale_stride, bias, residual, gain, y, y_squares, T, N, D, WIDTH, SHARE, COUNT, eps,
    GROUP: gl.constexpr, NORMED: gl.constexpr, GATED: gl.constexpr, HAS_BIAS: gl.constexpr, ADDS: gl.constexpr,
    IN_PAIRS: gl.constexpr, OVERLAPS: gl.constexpr, COUNTS: gl.constexpr,
    BN: gl.constexpr, BK: gl.constexpr, TT: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...), or (GATED) the gates and the others of half as many.

    WIDTH: words of an output, of which each warp has SHARE, whole groups; BK divides GROUP. `squares` [COUNT, T],
    COUNTS filled up, if NORMED. ADDS: as for `chained_linear_kernel`; `y_squares` [programs, T]. GATED: w has N rows of
    gates, then N others.
    """
    L: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [num_warps, 1, 1], [1, 16, 8])
    LW: gl.constexpr = gl.DotOperandLayout(0, L, 8)  # 8: so many neighbours a thread has, 16 bytes
    LX: gl.constexpr = gl.DotOperandLayout(1, L, 8)
    LY: gl.constexpr = gl.BlockedLayout([1, 1], [8, 4], [1, num_warps], [0, 1])
    LS: gl.constexpr = gl.BlockedLayout([1, 1], [32, 1], [num_warps, 1], [0, 1])
    OUT: gl.constexpr = BN // 2 if GATED else BN
    first = gl.program_id(0) * OUT
    w_warp = gl.arange(0, num_warps, gl.SliceLayout(1, gl.SliceLayout(2, LW)))[:, None, None]
    w_output = gl.arange(0, BN, gl.SliceLayout(0, gl.SliceLayout(2, LW)))[None, :, None]
    w_inner = gl.arange(0, BK, gl.SliceLayout(0, gl.SliceLayout(1, LW)))[None, None, :]
    x_warp = gl.arange(0, num_warps, gl.SliceLayout(1, gl.SliceLayout(2, LX)))[:, None, None]
    x_inner = gl.arange(0, BK, gl.SliceLayout(0, gl.SliceLayout(2, LX)))[None, :, None]
    x_token = gl.arange(0, TT, gl.SliceLayout(0, gl.SliceLayout(1, LX)))[None, None, :]
    scale_warp = gl.arange(0, num_warps, gl.SliceLayout(1, gl.SliceLayout(2, L)))[:, None]
    scale_output = gl.arange(0, BN, gl.SliceLayout(0, gl.SliceLayout(2, L)))[None, :]
    if GATED:  # gates and what they are for are rows of one tile
        w_output = w_output % OUT + w_output // OUT * N
        scale_output = scale_output % OUT + scale_output // OUT * N
    w_at = w + (first + w_output).to(gl.int64) * WIDTH + (w_warp * SHARE + w_inner)
    x_at = x + x_token * D + (x_warp * SHARE + x_inner)
    inside_x = x_token < T
    scales_at = scales + scale_warp * (SHARE // GROUP) * scale_stride + (first + scale_output)
    output = first + gl.arange(0, OUT, gl.SliceLayout(1, LY))
    token = gl.arange(0, TT, gl.SliceLayout(0, LY))
    y_at = token[None, :] * N + output[:, None]
    inside = (token < T)[None, :] & (output < N)[:, None]
    # Weights, their scales, gains and biases are never written: they are on their way before this kernel may look at
    # what others wrote. All else that the end takes is asked for before the sums are there.
    words = gl.load(w_at)
    scale = _scales(scales_at, 0, WIDTH, scale_stride, GROUP)
    gains = gl.load(gain + output).to(gl.float32)[:, None] if ADDS else 0.0
    rise = gl.load(bias + output).to(gl.float32)[:, None] if HAS_BIAS else 0.0
    up_rise = gl.load(bias + N + output).to(gl.float32)[:, None] if HAS_BIAS and GATED else 0.0
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    rest = gl.load(residual + y_at, mask=inside, other=0.0).to(gl.float32) if ADDS else 0.0
    if NORMED:
        count = gl.arange(0, COUNTS, gl.SliceLayout(1, LS))[:, None]
        each = gl.arange(0, TT, gl.SliceLayout(0, LS))[None, :]
        square = gl.load(squares + count * T + each, mask=(count < COUNT) & (each < T), other=0.0)
    x_tile = gl.load(x_at, mask=inside_x, other=0.0)
    nothing = gl.zeros([num_warps, BN, TT], gl.float32, L)
    acc = nothing
    for k in range(0, SHARE, BK):
        # The last ones are asked for once more, which is in a cache.
        next_k = gl.minimum(k + BK, SHARE - BK)
        next_words = gl.load(w_at + next_k)
        next_scale = _scales(scales_at, next_k, WIDTH, scale_stride, GROUP)
        for part in gl.static_range(4):
            next_first = (part + 1) * WIDTH + k if part < 3 else next_k
            next_tile = gl.load(x_at + next_first, mask=inside_x, other=0.0)
            acc = multiply(acc, words, x_tile, scale[part], nothing, part, IN_PAIRS)
            x_tile = next_tile
        words = next_words
        scale = next_scale
    found = gl.convert_layout(gl.sum(acc, 0), LY)
    if NORMED:
        total = gl.convert_layout(gl.sum(square, 0), gl.SliceLayout(0, LY))
        found *= (1.0 / gl.sqrt(total / D + eps))[None, :]
    if GATED:
        halves = gl.permute(gl.reshape(found, [2, OUT, TT]), (1, 2, 0))
        found, up = gl.split(halves)
        found, up = gl.convert_layout(found, LY), gl.convert_layout(up, LY)
    else:
        up = found
    finish(
        found, up, rest, gains, rise, up_rise, residual, y, y_squares, y_at, gl.program_id(0) * T + token, inside,
        token < T, GATED, HAS_BIAS, ADDS,
    )  # fmt: skip


def chained_in_registers(
    rows: PreparedRows, weight: LinearWeight, place: "Place", out: PreparedRows, launch: "Launch"
) -> None:
    """As `tradewind.kernels.chained_linear.triton.chained_linear`, of up to 8 or 16 rows and a weight of 4 bits.

    The sums of squares in `out` are those of as many outputs each as a program owns.
    """
    tactic, reading, norm = launch.tactic, Reading.of(weight), place.norm
    tokens, width = rows.values_TD.shape
    outputs, words = out.values_TD.shape[1], weight.data.shape[1]
    counts = 0 if rows.squares_GT is None else len(rows.squares_GT)
    warps = tactic.warps
    while words % (warps * reading.group):
        warps //= 2
    registers_kernel[(weight.out_features // tactic.outputs,)](
        rows.values_TD, rows.squares_GT, weight.data, weight.extras[0], reading.stride_k, weight.bias_N,
        place.residual_TN, norm.weight_D if norm else None, out.values_TD, out.squares_GT, tokens, outputs, width,
        words, words // warps, counts, rows.eps,
        BK=min(tactic.inputs, reading.group), TT=tactic.rows, num_warps=warps,
        **constants(rows, weight, place, launch),
    )  # fmt: skip
