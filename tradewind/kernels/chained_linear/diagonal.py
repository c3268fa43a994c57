"""chained_linear of one row with 4-bit weights, in Gluon: the tensor cores multiply what each thread has loaded.

Of one row there is nothing to share: a thread multiplies the words that it has loaded by its own part of the row. The
tensor cores do that for it, if they are told that each four threads' part of an output is a row of the tall operand,
and the same threads' part of the row a column of the other one: what belongs together stands on a diagonal of what
comes out, and the rest is dropped. So words need not lie as the tensor cores' tiles do: a warp reads 512 bytes of one
output, then of the next, which memory serves faster than 64 bytes of each of eight (see registers.py).

Legend beyond the package's: BN outputs of a program; W warps, of QUADS of four threads each.
"""

from typing import TYPE_CHECKING

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tradewind.kernels.chained_linear import PreparedRows
from tradewind.kernels.chained_linear.in_gluon import constants, finish, multiply
from tradewind.kernels.fused_linear.triton import Reading
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.tactics import ChainedTactic

if TYPE_CHECKING:
    from tradewind.kernels.chained_linear.triton import Launch, Place

WARP_WORDS = 256
"""So many words of an output a warp loads at once: 16 bytes a thread."""


def takes(tactic: ChainedTactic) -> bool:
    """Whether it is one of these."""
    return tactic.rows == 1


@gluon.jit
def _words(at, k, inner, WIDTH, EVEN: gl.constexpr):
    """A tile of words from the k-th of an output on. EVEN: all of it is there."""
    if EVEN:
        tile = gl.load(at + k, eviction_policy="evict_first")
    else:
        tile = gl.load(at + k, mask=(inner + k < WIDTH)[None, :], other=0, eviction_policy="evict_first")
    return tile


@gluon.jit
def _scales(at, k, word, WIDTH, stride, GROUP: gl.constexpr, EVEN: gl.constexpr):
    """Of each part, for the groups that have these words from the k-th on."""
    found = ()
    for part in gl.static_range(4):
        scale_at = at + (part * WIDTH + k + word) // GROUP * stride
        if EVEN:
            found += (gl.load(scale_at),)  # type: ignore[assignment]  # it grows while the kernel is compiled
        else:
            found += (gl.load(scale_at, mask=k + word < WIDTH, other=0.0),)  # type: ignore[assignment]
    return found


@gluon.jit(do_not_specialize=["COUNT"])
def diagonal_kernel(
    x, squares, w, scales, scale_stride, bias, residual, gain, y, y_squares, N, D, WIDTH, COUNT, eps,
    GROUP: gl.constexpr, NORMED: gl.constexpr, GATED: gl.constexpr, HAS_BIAS: gl.constexpr, ADDS: gl.constexpr,
    IN_PAIRS: gl.constexpr, OVERLAPS: gl.constexpr, COUNTS: gl.constexpr, EVEN: gl.constexpr,
    BN: gl.constexpr, STEPS: gl.constexpr, AHEAD: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...), or (GATED) the gates and the others of half as many. The rest as for
    `tradewind.kernels.chained_linear.registers.registers_kernel`.

    All STEPS of W * 256 words of each output are written out, because what a loop carried from one turn to the next
    would be taken apart into its halves. AHEAD: how many of them are on their way at once. EVEN: the last one is full.
    """
    VEC: gl.constexpr = 8  # words that a thread loads at once, 16 bytes
    QUADS: gl.constexpr = 8
    BK: gl.constexpr = num_warps * 32 * VEC
    OUT: gl.constexpr = BN // 2 if GATED else BN
    L: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [num_warps, 1, 1], [1, 16, 8])
    LA: gl.constexpr = gl.DotOperandLayout(0, L, VEC)
    LB: gl.constexpr = gl.DotOperandLayout(1, L, VEC)
    LW: gl.constexpr = gl.BlockedLayout([BN, VEC], [1, 32], [1, num_warps], [1, 0])
    LX: gl.constexpr = gl.BlockedLayout([1, 1, VEC], [1, QUADS, 4], [num_warps, 1, 1], [2, 1, 0])
    LR: gl.constexpr = gl.SliceLayout(2, L)
    LY: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    first = gl.program_id(0) * OUT
    w_output = gl.arange(0, BN, gl.SliceLayout(1, LW))
    w_inner = gl.arange(0, BK, gl.SliceLayout(0, LW))
    x_warp = gl.arange(0, num_warps, gl.SliceLayout(1, gl.SliceLayout(2, LX)))[:, None, None]
    x_quad = gl.arange(0, QUADS, gl.SliceLayout(0, gl.SliceLayout(2, LX)))[None, :, None]
    x_word = gl.arange(0, 4 * VEC, gl.SliceLayout(0, gl.SliceLayout(1, LX)))[None, None, :]
    scale_warp = gl.arange(0, num_warps, gl.SliceLayout(1, LR))[:, None]
    scale_row = gl.arange(0, BN * QUADS, gl.SliceLayout(0, LR))[None, :]
    scale_output = scale_row // QUADS
    if GATED:  # gates and what they are for are rows of one tile
        w_output = w_output % OUT + w_output // OUT * N
        scale_output = scale_output % OUT + scale_output // OUT * N
    w_at = w + (first + w_output).to(gl.int64)[:, None] * WIDTH + w_inner[None, :]
    inner = x_warp * (32 * VEC) + x_quad * (4 * VEC) + x_word
    x_at = x + inner
    scale_word = scale_warp * (32 * VEC) + scale_row % QUADS * (4 * VEC)
    scales_at = scales + first + scale_output
    output = first + gl.arange(0, OUT, LY)
    # Weights, their scales, gains and biases are never written: they are on their way before this kernel may look at
    # what others wrote. All else that the end takes is asked for before the sums are there.
    tiles = ()
    for step in gl.static_range(AHEAD):
        tiles += (_words(w_at, step * BK, w_inner, WIDTH, EVEN or step + 1 < STEPS),)  # type: ignore[assignment]
    next_scale = _scales(scales_at, 0, scale_word, WIDTH, scale_stride, GROUP, EVEN or STEPS > 1)
    gains = gl.load(gain + output).to(gl.float32) if ADDS else 0.0
    rise = gl.load(bias + output).to(gl.float32) if HAS_BIAS else 0.0
    up_rise = gl.load(bias + N + output).to(gl.float32) if HAS_BIAS and GATED else 0.0
    if OVERLAPS:
        gdc_launch_dependents()
        gdc_wait()
    rest = gl.load(residual + output).to(gl.float32) if ADDS else 0.0
    if NORMED:
        count = gl.arange(0, COUNTS, LY)
        square = gl.load(squares + count, mask=count < COUNT, other=0.0)
    nothing = gl.zeros([num_warps, BN * QUADS, QUADS], gl.float32, L)
    acc = nothing
    for step in gl.static_range(STEPS):
        if step + AHEAD < STEPS:
            more = _words(w_at, (step + AHEAD) * BK, w_inner, WIDTH, EVEN or step + AHEAD + 1 < STEPS)
            tiles += (more,)  # type: ignore[assignment]
        scale = next_scale
        if step + 1 < STEPS:
            next_scale = _scales(
                scales_at, (step + 1) * BK, scale_word, WIDTH, scale_stride, GROUP, EVEN or step + 2 < STEPS
            )
        words = gl.permute(gl.reshape(tiles[step], [BN, num_warps, QUADS, 4 * VEC]), (1, 0, 2, 3))
        words = gl.convert_layout(gl.reshape(words, [num_warps, BN * QUADS, 4 * VEC]), LA, assert_trivial=True)
        for part in gl.static_range(4):
            if EVEN or step + 1 < STEPS:
                some = gl.load(x_at + (part * WIDTH + step * BK))
            else:
                some = gl.load(x_at + (part * WIDTH + step * BK), mask=inner + step * BK < WIDTH, other=0.0)
            x_tile = gl.convert_layout(gl.permute(some, (0, 2, 1)), LB, assert_trivial=True)
            acc = multiply(acc, words, x_tile, scale[part], nothing, part, IN_PAIRS)
    row = gl.arange(0, BN * QUADS, gl.SliceLayout(0, gl.SliceLayout(2, L)))[None, :, None]
    column = gl.arange(0, QUADS, gl.SliceLayout(0, gl.SliceLayout(1, L)))[None, None, :]
    kept = gl.sum(gl.where(row % QUADS == column, acc, 0.0), 2)
    found = gl.sum(gl.sum(gl.reshape(kept, [num_warps, BN, QUADS]), 2), 0)
    if NORMED:
        found *= 1.0 / gl.sqrt(gl.sum(square, 0) / D + eps)
    finish(
        found, rest, gains, rise, up_rise, residual, y, y_squares, output, gl.program_id(0), True, True,
        GATED, HAS_BIAS, ADDS, LY, gl.BlockedLayout([BN], [32], [num_warps], [0]),
    )  # fmt: skip


def steps_of(words: int, tactic: ChainedTactic) -> dict[str, int]:
    """STEPS, EVEN and AHEAD of the kernel, for so many words of an output."""
    full, left = divmod(words, tactic.warps * WARP_WORDS)
    steps = full + (left > 0)
    return {"STEPS": steps, "EVEN": left == 0, "AHEAD": min(tactic.stages, steps)}


def chained_diagonal(
    rows: PreparedRows, weight: LinearWeight, place: "Place", out: PreparedRows, launch: "Launch"
) -> None:
    """As `tradewind.kernels.chained_linear.triton.chained_linear`, of one row and a weight of 4 bits.

    The sums of squares in `out` are those of as many outputs each as a program owns.
    """
    tactic, norm = launch.tactic, place.norm
    width, outputs, words = rows.values_TD.shape[1], out.values_TD.shape[1], weight.data.shape[1]
    counts = 0 if rows.squares_GT is None else len(rows.squares_GT)
    diagonal_kernel[(weight.out_features // tactic.outputs,)](
        rows.values_TD, rows.squares_GT, weight.data, weight.extras[0], Reading.of(weight).stride_k, weight.bias_N,
        place.residual_TN, norm.weight_D if norm else None, out.values_TD, out.squares_GT, outputs, width, words,
        counts, rows.eps,
        num_warps=tactic.warps, **steps_of(words, tactic), **constants(rows, weight, place, launch),
    )  # fmt: skip
