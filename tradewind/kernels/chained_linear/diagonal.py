"""chained_linear of one or two rows, in Gluon: the tensor cores multiply what each thread has loaded.

Of one row there is nothing to share: a thread multiplies the words that it has loaded by its own part of the row. The
tensor cores do that for it, if they are told that each four threads' part of an output is a row of the tall operand,
and the same threads' part of the row a column of the other one: what belongs together stands on a diagonal of what
comes out, and the rest is dropped. So words need not lie as the tensor cores' tiles do: a warp reads 512 bytes of one
output, then of the next, which memory serves faster than 64 bytes of each of eight (see registers.py). Of two rows a
warp reads 256 bytes of each of two outputs, in four parts, and each row has four of the eight columns: as many
instructions as for one, and twice as much of what comes out is kept.

A word has 16 bits: four numbers of 4 bits, one of each of four parts of an output (linear/int4.py), or two neighbours
of 8 bits (linear/fp8.py). The latter become float16, by one instruction for two. A row's bfloat16 may be larger than
that, so those 64 numbers that meet in one column are divided by a power of two on their way, and their sums are
multiplied by it: what float16 cannot say of them is less than 2^-24 of the largest.

Legend beyond the package's: BN outputs of a program; W warps, of QUADS of four threads each; TALL rows of the tall
operand.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from triton import constexpr_function
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from tradewind.kernels.chained_linear import PreparedRows
from tradewind.kernels.chained_linear.in_gluon import constants, finish, multiply
from tradewind.kernels.fused_linear.triton import Reading
from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import LinearWeight, fp8
from tradewind.kernels.linear.tactics import ChainedTactic

if TYPE_CHECKING:
    from tradewind.kernels.chained_linear.triton import Launch, Place

MOST_ROWS = 2

WARP_WORDS = 256
"""So many words a warp loads at once, 16 bytes a thread: of as many outputs as there are rows."""

ASKED = 32_768
"""Bytes of the next product's weight that are asked for, for each multiprocessor. Half as much gains less, twice as
much nothing (H100).
"""
_HELD = 65_536  # bytes of it before those, for each multiprocessor: the programs that begin first ask for them anyway

_LEAST_OUTPUTS = 8  # of a program: the rows have to be made ready for each

_WIDEN = gl.constexpr("""{
    .reg .b16 first, second;
    mov.b32 {first, second}, $2;
    cvt.rn.f16x2.e4m3x2 $0, first;
    cvt.rn.f16x2.e4m3x2 $1, second;
}""")
_DIVIDE = gl.constexpr("""{
    .reg .b32 pair, none, low, high;
    mov.b32 none, 0x80008000;
    fma.rn.bf16x2 pair, $2, $4, none;
    shl.b32 low, pair, 16;
    and.b32 high, pair, 0xffff0000;
    cvt.rn.f16x2.f32 $0, high, low;
    fma.rn.bf16x2 pair, $3, $4, none;
    shl.b32 low, pair, 16;
    and.b32 high, pair, 0xffff0000;
    cvt.rn.f16x2.f32 $1, high, low;
}""")
_LARGER = gl.constexpr("max.xorsign.abs.bf16x2 $0, $1, $2;")


def takes(tactic: ChainedTactic) -> bool:
    """Whether it is one of these."""
    return tactic.rows <= MOST_ROWS


def fitted(tactic: ChainedTactic, outputs: int, chip: Chip) -> ChainedTactic:
    """The tactic in place of one that was measured for more outputs, so that no multiprocessor is left without work."""
    owned, warps = tactic.outputs, tactic.warps
    while owned > _LEAST_OUTPUTS and outputs // owned < chip.processors:
        owned //= 2
        warps = min(warps, owned // 2)  # more would spill
    return replace(tactic, outputs=owned, warps=warps)


@constexpr_function
def _asking(nbytes):
    """Assembly: so many bytes from an address on are brought into the L2 cache, if a number is not 0."""
    ask = f"@asks cp.async.bulk.prefetch.L2.global [$1], {nbytes};"
    return f"{{ .reg .pred asks; setp.ne.s32 asks, $2, 0; {ask} mov.u32 $0, 0; }}"


@gluon.jit
def _ask_for(next_w, askers, ASKED: gl.constexpr, num_warps: gl.constexpr):
    """The first `askers` programs have ASKED bytes each brought into the L2 cache, from `next_w` on."""
    THREADS: gl.constexpr = 32 * num_warps
    EACH: gl.constexpr = ASKED // THREADS
    thread = gl.arange(0, THREADS, gl.BlockedLayout([1], [32], [num_warps], [0]))
    at = (next_w + (gl.program_id(0) * THREADS + thread) * EACH).to(gl.int64)
    asks = (thread * 0 + gl.program_id(0) < askers).to(gl.int32)
    gl.inline_asm_elementwise(_asking(EACH), "=r,l,r", [at, asks], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _words(at, k, inner, WIDTH, EVEN: gl.constexpr):
    """A tile of words from the k-th of an output on. EVEN: all of it is there."""
    if EVEN:
        tile = gl.load(at + k, eviction_policy="evict_first")
    else:
        tile = gl.load(at + k, mask=(inner + k < WIDTH)[None, :], other=0, eviction_policy="evict_first")
    return tile


@gluon.jit
def _of_row(at, k, inner, WIDTH, EVEN: gl.constexpr):
    """What words from the k-th on are multiplied by."""
    if EVEN:
        tile = gl.load(at)
    else:
        tile = gl.load(at, mask=inner + k < WIDTH, other=0)
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


@gluon.jit
def _power(words, LX: gl.constexpr, IN_PAIRS: gl.constexpr):
    """Bits of the power of two that the largest of each 64 bfloat16 has, as a float32: of words [W, QUADS, 32]."""
    if IN_PAIRS:
        for _half in gl.static_range(3):
            pairs = gl.reshape(words, [words.shape[0], words.shape[1], words.shape[2] // 2, 2])
            one, other = gl.split(pairs)
            words = gl.inline_asm_elementwise(_LARGER, "=r,r,r", [one, other], dtype=gl.int32, is_pure=True, pack=1)
    power = gl.max(gl.maximum(words & 0x7F800000, (words << 16) & 0x7F800000), 2)
    # Neither it nor its inverse may be 0 or infinite.
    power = gl.minimum(gl.maximum(power, 1 << 23), 253 << 23)
    return gl.convert_layout(power, gl.SliceLayout(2, LX), assert_trivial=True)


@gluon.jit
def _divided(words, power, IN_PAIRS: gl.constexpr):
    """Both numbers of each word, divided by a power of two: all first and all second ones, or, IN_PAIRS, both of every
    other word.
    """
    inverse = (254 << 23) - power
    if IN_PAIRS:
        inverse = gl.expand_dims(inverse | (inverse >> 16), 2) | (words & 0)
        first, second = gl.inline_asm_elementwise(
            _DIVIDE, "=r,=r,r,r,r,r", [words, inverse], dtype=(gl.float16, gl.float16), is_pure=True, pack=2
        )
    else:
        inverse = gl.expand_dims(inverse.to(gl.float32, bitcast=True), 2)
        first = ((words << 16).to(gl.float32, bitcast=True) * inverse).to(gl.float16)
        second = ((words & -65536).to(gl.float32, bitcast=True) * inverse).to(gl.float16)
    return first, second


@gluon.jit
def _widened(words, IN_PAIRS: gl.constexpr):
    """Both numbers of each word, as `_divided` has those of the row."""
    if IN_PAIRS:
        first, second = gl.inline_asm_elementwise(
            _WIDEN, "=r,=r,r", [words], dtype=(gl.float16, gl.float16), is_pure=True, pack=2
        )
    else:
        first = (words & 255).to(gl.int8).to(gl.float8e4nv, bitcast=True).to(gl.float16)
        second = ((words >> 8) & 255).to(gl.int8).to(gl.float8e4nv, bitcast=True).to(gl.float16)
    return first, second


@gluon.jit
def _multiply_floats(
    acc, words, row_words, nothing, ROWS: gl.constexpr, L: gl.constexpr, LX: gl.constexpr, IN_PAIRS: gl.constexpr
):
    """acc [W, TALL, QUADS] plus the products of words of two, the rows' being [W, QUADS, 32]."""
    W: gl.constexpr = acc.shape[0]
    TALL: gl.constexpr = acc.shape[1]
    QUADS: gl.constexpr = acc.shape[2]
    LB: gl.constexpr = gl.DotOperandLayout(1, L, 8)
    power = _power(row_words, LX, IN_PAIRS)
    row_first, row_second = _divided(row_words, power, IN_PAIRS)
    row_first = gl.convert_layout(gl.permute(row_first, (0, 2, 1)), LB, assert_trivial=True)
    row_second = gl.convert_layout(gl.permute(row_second, (0, 2, 1)), LB, assert_trivial=True)
    first, second = _widened(words, IN_PAIRS)
    found = mma_v2(second, row_second, mma_v2(first, row_first, nothing))
    power = power.to(gl.float32, bitcast=True)
    if ROWS == 1:
        # Four threads have their own power for each output of which they have what stands on the diagonal.
        EACH: gl.constexpr = TALL // QUADS
        LP: gl.constexpr = gl.BlockedLayout([1, 1, EACH], [1, QUADS, 4], [W, 1, 1], [2, 1, 0])
        power = gl.convert_layout(power, gl.SliceLayout(2, LP), assert_trivial=True)
        power = gl.permute(gl.expand_dims(power, 2) + gl.zeros([W, QUADS, EACH], gl.float32, LP), (0, 2, 1))
        power = gl.convert_layout(gl.reshape(power, [W, TALL]), gl.SliceLayout(2, L), assert_trivial=True)
        power = gl.expand_dims(power, 2)
    else:
        # A thread has sums of two columns, whose powers others have.
        power = gl.expand_dims(gl.convert_layout(power, gl.SliceLayout(1, L)), 1)
    return acc + found * power


@gluon.jit(do_not_specialize=["COUNT", "askers"])  # T: the compiler may know of a row that there is no other
def diagonal_kernel(
    x, squares, w, scales, scale_stride, bias, residual, gain, y, y_squares, next_w, askers, T, N, D, WIDTH, COUNT, eps,
    GROUP: gl.constexpr, NORMED: gl.constexpr, GATED: gl.constexpr, HAS_BIAS: gl.constexpr, ADDS: gl.constexpr,
    IN_PAIRS: gl.constexpr, OVERLAPS: gl.constexpr, COUNTS: gl.constexpr, EVEN: gl.constexpr,
    BN: gl.constexpr, ROWS: gl.constexpr, STEPS: gl.constexpr, AHEAD: gl.constexpr, ASKED: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...), or (GATED) as many of the gates and of the others, half as many. The rest as
    for `tradewind.kernels.chained_linear.registers.registers_kernel`.

    GROUP: 0 for weights of 8 bits, which have one scale an output, float32; their x is words of two numbers, int32.
    ROWS: 1 or 2, no fewer than T. All STEPS of W * PIECES * 32 words of each output are written out, because what a
    loop carried from one turn to the next would be taken apart into its halves. AHEAD: how many of them are on their
    way at once. EVEN: the last one is full. next_w: None, or bytes that the product after this one takes, of which the
    first `askers` programs ask for ASKED each.
    """
    VEC: gl.constexpr = 8  # words that a thread loads at once, 16 bytes
    QUADS: gl.constexpr = 8
    PIECES: gl.constexpr = QUADS // ROWS  # of an output, one for each quad that it has
    BK: gl.constexpr = num_warps * PIECES * 4 * VEC
    EACH: gl.constexpr = 2 if GATED else 1  # outputs that become one
    OUT: gl.constexpr = BN // EACH
    TALL: gl.constexpr = BN // ROWS * QUADS
    L: gl.constexpr = gl.NVMMADistributedLayout([2, 0], [num_warps, 1, 1], [1, 16, 8])
    LA: gl.constexpr = gl.DotOperandLayout(0, L, VEC)
    LB: gl.constexpr = gl.DotOperandLayout(1, L, VEC)
    LW: gl.constexpr = gl.BlockedLayout([1, VEC], [ROWS, 32 // ROWS], [1, num_warps], [1, 0])
    LX: gl.constexpr = gl.BlockedLayout([1, 1, VEC], [1, QUADS, 4], [num_warps, 1, 1], [2, 1, 0])
    LR: gl.constexpr = gl.SliceLayout(2, L)
    LC: gl.constexpr = gl.BlockedLayout([1, ROWS], [32, 1], [num_warps, 1], [1, 0])
    # Sums of an output and a row are added up by SHARERS threads, LANES in a warp, FEW each; NEAR rows in a warp.
    FEW: gl.constexpr = OUT // ROWS
    SHARERS: gl.constexpr = num_warps * 32 // (OUT * ROWS)
    LANES: gl.constexpr = SHARERS if SHARERS < 32 else 32
    WARPS: gl.constexpr = SHARERS // LANES
    NEAR: gl.constexpr = ROWS if ROWS * LANES <= 32 else 1
    THREADS: gl.constexpr = [32 // LANES // NEAR, NEAR, LANES]
    SPREAD: gl.constexpr = [num_warps // WARPS // (ROWS // NEAR), ROWS // NEAR, WARPS]
    LS: gl.constexpr = gl.BlockedLayout([EACH, FEW], [32 // LANES, LANES], [num_warps // WARPS, WARPS], [1, 0])
    LY: gl.constexpr = gl.SliceLayout(2, gl.BlockedLayout([1, 1, FEW], THREADS, SPREAD, [2, 1, 0]))
    first = gl.program_id(0) * OUT
    w_output = gl.arange(0, BN, gl.SliceLayout(1, LW))
    w_output = w_output // EACH + w_output % EACH * N
    w_inner = gl.arange(0, BK, gl.SliceLayout(0, LW))
    x_warp = gl.arange(0, num_warps, gl.SliceLayout(1, gl.SliceLayout(2, LX)))[:, None, None]
    x_quad = gl.arange(0, QUADS, gl.SliceLayout(0, gl.SliceLayout(2, LX)))[None, :, None]
    x_word = gl.arange(0, 4 * VEC, gl.SliceLayout(0, gl.SliceLayout(1, LX)))[None, None, :]
    w_at = w + (first + w_output).to(gl.int64)[:, None] * WIDTH + w_inner[None, :]
    inner = x_warp * (PIECES * 4 * VEC) + x_quad % PIECES * (4 * VEC) + x_word
    # The last row stands for those that there are not.
    x_at = x + gl.minimum(x_quad // PIECES, T - 1) * (D if GROUP else D // 2) + inner
    output = first + gl.arange(0, OUT, gl.SliceLayout(1, LY))[:, None]
    token = gl.arange(0, ROWS, gl.SliceLayout(0, LY))
    y_at = token[None, :] * N + output
    inside = (token < T)[None, :] & (output < N)
    # Weights, their scales, gains and biases are never written: they are on their way before this kernel may look at
    # what others wrote. All else that the end takes is asked for before the sums are there.
    tiles = ()
    for step in gl.static_range(AHEAD):
        tiles += (_words(w_at, step * BK, w_inner, WIDTH, EVEN or step + 1 < STEPS),)  # type: ignore[assignment]
    if GROUP:
        scale_warp = gl.arange(0, num_warps, gl.SliceLayout(1, LR))[:, None]
        scale_row = gl.arange(0, TALL, gl.SliceLayout(0, LR))[None, :]
        scale_output = scale_row // PIECES
        scale_output = scale_output // EACH + scale_output % EACH * N
        scale_word = scale_warp * (PIECES * 4 * VEC) + scale_row % PIECES * (4 * VEC)
        scales_at = scales + first + scale_output
        next_scale = _scales(scales_at, 0, scale_word, WIDTH, scale_stride, GROUP, EVEN or STEPS > 1)
    else:
        scale_output = gl.arange(0, OUT * ROWS * EACH, gl.SliceLayout(1, LS))
        output_scale = gl.load(scales + first + scale_output // (ROWS * EACH) + scale_output % EACH * N)
    gains = gl.load(gain + output).to(gl.float32) if ADDS else 0.0
    rise = gl.load(bias + output).to(gl.float32) if HAS_BIAS else 0.0
    up_rise = gl.load(bias + N + output).to(gl.float32) if HAS_BIAS and GATED else 0.0
    if OVERLAPS:
        if next_w is not None:
            _ask_for(next_w, askers, ASKED, num_warps)
        gdc_launch_dependents()
        gdc_wait()
    rest = gl.load(residual + y_at, mask=inside, other=0.0).to(gl.float32) if ADDS else 0.0
    if NORMED:
        count = gl.arange(0, COUNTS, gl.SliceLayout(1, LC))[:, None]
        each = gl.arange(0, ROWS, gl.SliceLayout(0, LC))[None, :]
        square = gl.load(squares + count * T + each, mask=(count < COUNT) & (each < T), other=0.0)
    nothing = gl.zeros([num_warps, TALL, QUADS], gl.float32, L)
    acc = nothing
    for step in gl.static_range(STEPS):
        if step + AHEAD < STEPS:
            more = _words(w_at, (step + AHEAD) * BK, w_inner, WIDTH, EVEN or step + AHEAD + 1 < STEPS)
            tiles += (more,)  # type: ignore[assignment]
        words = gl.permute(gl.reshape(tiles[step], [BN // ROWS, ROWS, num_warps, PIECES, 4 * VEC]), (2, 0, 1, 3, 4))
        words = gl.convert_layout(gl.reshape(words, [num_warps, TALL, 4 * VEC]), LA, assert_trivial=True)
        if GROUP:
            scale = next_scale
            if step + 1 < STEPS:
                next_scale = _scales(
                    scales_at, (step + 1) * BK, scale_word, WIDTH, scale_stride, GROUP, EVEN or step + 2 < STEPS
                )
            for part in gl.static_range(4):
                some_at = x_at + (part * WIDTH + step * BK)
                some = _of_row(some_at, step * BK, inner, WIDTH, EVEN or step + 1 < STEPS)
                x_tile = gl.convert_layout(gl.permute(some, (0, 2, 1)), LB, assert_trivial=True)
                acc = multiply(acc, words, x_tile, scale[part], nothing, part, IN_PAIRS)
        else:
            some = _of_row(x_at + step * BK, step * BK, inner, WIDTH, EVEN or step + 1 < STEPS)
            acc = _multiply_floats(acc, words, some, nothing, ROWS, L, LX, IN_PAIRS)
    row = gl.arange(0, TALL, gl.SliceLayout(0, LR))[None, :, None]
    column = gl.arange(0, QUADS, gl.SliceLayout(0, gl.SliceLayout(1, L)))[None, None, :]
    kept = gl.where(row % PIECES == column % PIECES, acc, 0.0)
    kept = gl.sum(gl.reshape(kept, [num_warps, TALL, QUADS // 2, 2]), 3)  # a thread's own
    kept = gl.reshape(kept, [num_warps, OUT, EACH, PIECES, ROWS, PIECES // 2])
    kept = gl.reshape(gl.permute(kept, (1, 4, 2, 0, 3, 5)), [OUT * ROWS * EACH, num_warps * PIECES * PIECES // 2])
    found = gl.sum(gl.convert_layout(kept, LS), 1)
    if GROUP == 0:
        found *= output_scale
    if GATED:
        found, up = gl.split(gl.reshape(found, [OUT, ROWS, 2]))
        found, up = gl.convert_layout(found, LY), gl.convert_layout(up, LY)
    else:
        found = gl.convert_layout(gl.reshape(found, [OUT, ROWS]), LY)
        up = found
    if NORMED:
        root = 1.0 / gl.sqrt(gl.convert_layout(gl.sum(square, 0), gl.SliceLayout(0, LY)) / D + eps)
        found *= root[None, :]
        up *= root[None, :]
    finish(
        found, up, rest, gains, rise, up_rise, residual, y, y_squares, y_at, gl.program_id(0) * T + token, inside,
        token < T, GATED, HAS_BIAS, ADDS,
    )  # fmt: skip


def asks(layout: str, rows: int, *, gated: bool) -> bool:
    """Whether a product asks for a part of the next one's weight, where that is known: measured on an H100."""
    return rows == 1 and (gated or layout == fp8.LAYOUT)


def _asked(weight: LinearWeight, place: "Place", rows: int, chip: Chip) -> tuple[torch.Tensor | None, int]:
    """`next_w` and `askers` of the kernel."""
    if place.next_weight is None or not asks(weight.layout, rows, gated=place.gated):
        return None, 0
    next_w = place.next_weight.data.view(-1).view(torch.uint8)[chip.processors * _HELD :]
    return next_w, min(chip.processors, len(next_w) // ASKED)


def steps_of(words: int, tactic: ChainedTactic) -> dict[str, int]:
    """STEPS, EVEN and AHEAD of the kernel, for so many words of an output."""
    full, left = divmod(words, tactic.warps * WARP_WORDS // tactic.rows)
    steps = full + (left > 0)
    return {"STEPS": steps, "EVEN": left == 0, "AHEAD": min(tactic.stages, steps)}


def chained_diagonal(
    rows: PreparedRows, weight: LinearWeight, place: "Place", out: PreparedRows, launch: "Launch"
) -> None:
    """As `tradewind.kernels.chained_linear.triton.chained_linear`, of one or two rows and a weight of 4 bits, or one of
    8-bit floats with a scale for each output and rows of bfloat16.

    The sums of squares in `out` are those of as many outputs each as a program owns.
    """
    tactic, norm, x, w = launch.tactic, place.norm, rows.values_TD, weight.data
    if weight.layout == fp8.LAYOUT:
        x, w = x.view(torch.int32), w.view(torch.int16)
    tokens, outputs, words = len(x), out.values_TD.shape[1], w.shape[1]
    counts = 0 if rows.squares_GT is None else len(rows.squares_GT)
    next_w, askers = _asked(weight, place, tokens, launch.chip)
    diagonal_kernel[(weight.out_features // tactic.outputs,)](
        x, rows.squares_GT, w, weight.extras[0], Reading.of(weight).stride_k, weight.bias_N,
        place.residual_TN, norm.weight_D if norm else None, out.values_TD, out.squares_GT, next_w, askers,
        tokens, outputs, rows.values_TD.shape[1], words, counts, rows.eps,
        ROWS=tactic.rows, ASKED=ASKED, num_warps=tactic.warps, **steps_of(words, tactic),
        **constants(rows, weight, place, launch),
    )  # fmt: skip
