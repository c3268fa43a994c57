"""linear in Triton for few rows: every weight is read once, at the pace of the memory.

The weights are the tall operand of the tensor cores and the rows the narrow one, or the other way round. A program owns
some outputs and goes through all inputs in one order, so a row's result does not depend on the rows beside it: nor on
the tile, for the tensor cores of Hopper add the products of two 16-bit numbers alike whatever the tile (`is_exact`).
With 8-bit weights the rows are 8-bit too, each with its own scale, and so is each output's weight. Tiles that the
tensor memory accelerator brings are the same tiles, and their sums have the same bits.

Legend beyond the package's: BN outputs of a program, BT rows, BK inputs at a time.
"""

from dataclasses import replace

import torch
import triton
from torch import Tensor
from triton import language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from tradewind.kernels.gpu import FEW_TOKENS, Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import ask_for, begin, release
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.tactics import Tactic, Tactics
from tradewind.kernels.quantised_rows import FP8, NormedRows, QuantisedRows

_AHEAD_BYTES = 4 << 20  # of a weight; twice that was slower with weights of 16 bits
_PIECE_BYTES = 256  # that are asked for at once
_TMA_BYTES = 16  # that addresses and strides must be multiples of


@triton.jit(do_not_specialize=["T"])
def few_rows_kernel(
    x, x_stride, x_tiles, x_scales, x_squares, x_unit, eps, w, w_tiles, w_scales, bias, residual, y, T, N, D, ahead,
    SCALED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, EVEN: tl.constexpr,
    EXACT_DOT: tl.constexpr, OVERLAPS: tl.constexpr, GROUPED: tl.constexpr,
    ROWS_FIRST: tl.constexpr, BN: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    W_TMA: tl.constexpr, X_TMA: tl.constexpr, FEW: tl.constexpr, RELEASES: tl.constexpr,
):  # fmt: skip
    """A program: BN outputs of BT rows. EVEN: BN divides N, and BK divides D.

    ROWS_FIRST: the rows are the tall operand (their tile is filled up with zeros), else the weights are. GROUPED:
    programs that run side by side share weights and rows, 16 tiles of these at a time, so that caches hold both. W_TMA,
    X_TMA: the accelerator brings the tiles of w, and of x, as `w_tiles` [BN, BK] and `x_tiles` [BT, BK] describe them;
    else those are None. FEW: the weights of `ahead` inputs are asked for before the kernel before this one is over, and
    the next one may begin before this one's outputs are written; with RELEASES, at once. x_squares: None, or the rows'
    norm needs its root (NormedRows).
    """
    output_tile, row_tile = tl.program_id(0), tl.program_id(1)
    if GROUPED:
        row_tile, output_tile = tl.swizzle2d(row_tile, output_tile, tl.num_programs(1), tl.num_programs(0), 16)
    output = output_tile * BN + tl.arange(0, BN)
    token = row_tile * BT + tl.arange(0, BT)
    if FEW:
        release(RELEASES)
        ask_for(w + output.to(tl.int64) * D, ahead)
    # What is multiplied or added at the end is asked for at the beginning, not once the sums are there.
    if SCALED:
        w_scale = tl.load(w_scales + output, mask=output < N, other=0.0)
    if HAS_BIAS:
        rise = tl.load(bias + output, mask=output < N, other=0.0).to(tl.float32)
    begin(OVERLAPS)
    if SCALED:
        x_scale = tl.load(x_scales + token, mask=token < T, other=0.0)
    if x_squares is not None:
        x_square = tl.load(x_squares + token, mask=token < T, other=0)
    acc = sums(
        x, x_stride, x_tiles, w, w_tiles, output_tile, row_tile, T, N, D, EVEN, EXACT_DOT, ROWS_FIRST, BN, BT, BK,
        STAGES, W_TMA, X_TMA,
    )  # fmt: skip
    release(FEW and not RELEASES)
    if not ROWS_FIRST:
        acc = tl.trans(acc)
    if x_squares is not None:
        x_scale = rooted(x_scale, x_square, x_unit, eps, D)
    if SCALED:
        acc *= x_scale[:, None]
        acc *= w_scale[None, :]
    if HAS_BIAS:
        acc += rise[None, :]
    y_at = token.to(tl.int64)[:, None] * N + output[None, :]
    inside = (token < T)[:, None] & (output < N)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + y_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def sums(
    x, x_stride, x_tiles, w, w_tiles, output_tile, row_tile, T, N, D,
    EVEN: tl.constexpr, EXACT_DOT: tl.constexpr, ROWS_FIRST: tl.constexpr, BN: tl.constexpr, BT: tl.constexpr,
    BK: tl.constexpr, STAGES: tl.constexpr, W_TMA: tl.constexpr, X_TMA: tl.constexpr,
):  # fmt: skip
    """Of the products of a tile, float32, [BT, BN] with ROWS_FIRST, else [BN, BT]. See `few_rows_kernel`."""
    output = output_tile * BN + tl.arange(0, BN)
    token = row_tile * BT + tl.arange(0, BT)
    inner = tl.arange(0, BK)
    acc = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
    w_at = w + output.to(tl.int64)[:, None] * D + inner[None, :]
    x_at = x + token.to(tl.int64)[:, None] * x_stride + inner[None, :]
    for k in tl.range(0, D, BK, num_stages=STAGES):
        if W_TMA:
            w_tile = w_tiles.load([output_tile * BN, k])
        elif EVEN:
            w_tile = tl.load(w_at + k, eviction_policy="evict_first")
        else:
            w_tile = tl.load(w_at + k, mask=(output < N)[:, None] & (inner + k < D)[None, :], other=0.0)
        if X_TMA:
            x_tile = x_tiles.load([row_tile * BT, k])
        elif EVEN:
            x_tile = tl.load(x_at + k, mask=token[:, None] < T, other=0.0)
        else:
            x_tile = tl.load(x_at + k, mask=(token < T)[:, None] & (inner + k < D)[None, :], other=0.0)
        if ROWS_FIRST:
            acc = tl.dot(x_tile, tl.trans(w_tile), acc, input_precision="ieee" if EXACT_DOT else "tf32")
        else:
            acc = tl.dot(w_tile, tl.trans(x_tile), acc, input_precision="ieee" if EXACT_DOT else "tf32")
    return acc


@triton.jit
def rooted(scale, square, unit, eps, D):
    """The scales of rows whose norm's root is left to who multiplies: see NormedRows."""
    length = scale * unit
    return scale / tl.sqrt(square.to(tl.float32) * length * length / D + eps)


@triton.jit
def quantise_rows_kernel(x, x_stride, out, scales, D, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr):
    """One program for each row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    release(OVERLAPS)
    begin(OVERLAPS)
    wide = tl.load(x + row * x_stride + column, mask=column < D, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(wide), 0), 1e-30) / 448.0
    tl.store(out + row * D + column, in_range(wide / scale).to(out.dtype.element_ty), mask=column < D)
    tl.store(scales + row, scale)


def is_exact(tactic: Tactic, bits: int) -> bool:
    """Whether its sums have the bits of any other exact tactic's.

    8-bit floats are added with fewer bits where the tall operand has at least 64 numbers, as most tactics' have.
    """
    return bits == 16 or (bits == 8 and (tactic.rows_first or tactic.outputs >= 64))


def rows_of_program(tokens: int, tactic: Tactic) -> int:
    """Rows of a program."""
    if not tactic.rows_first:
        return min(64, max(16, next_power_of_2(tokens)))
    return 128 if tactic.warps == 8 and tokens > 64 else 64


def fitted(tactic: Tactic, tokens: int, itemsize: int, chip: Chip) -> Tactic:
    """The tactic, with as many stages as have room on this chip."""
    stage_bytes = (tactic.outputs + rows_of_program(tokens, tactic)) * tactic.inputs * itemsize
    stages = chip.stages(tactic.stages, stage_bytes)
    return tactic if stages == tactic.stages else replace(tactic, stages=stages)


def even_tactic(
    tactics: Tactics, tokens: int, weight: LinearWeight, chip: Chip, *, gated: bool = False
) -> Tactic | None:
    """The one measured for so many rows, fitted. None where the vendor's product (`gated`: or the gate on its own) is
    faster, or tiles would reach beyond the weight.
    """
    itemsize, halves = weight.data.itemsize, 2 if gated else 1
    found = tactics.find(8 * itemsize, tokens, weight.out_features, weight.in_features, gated=gated)
    if found is None:
        return None
    tactic = fitted(found, tokens, itemsize, chip)
    even = not (weight.out_features // halves) % (tactic.outputs // halves) and not weight.in_features % tactic.inputs
    return tactic if even else None


def few_rows(
    x: Tensor | QuantisedRows,
    weight: LinearWeight,
    residual_TN: Tensor | None,
    out_dtype: torch.dtype,
    tactic: Tactic,
    chip: Chip,
) -> Tensor:
    """y_TN in `out_dtype`, of rows that are quantised if and only if the weight is."""
    values_TD = x.values_TD if isinstance(x, QuantisedRows) else x
    scaled = isinstance(x, QuantisedRows)
    tokens, width = values_TD.shape
    outputs = weight.out_features
    y_TN = torch.empty((tokens, outputs), dtype=out_dtype, device=values_TD.device)
    if not tokens:
        return y_TN
    tactic = fitted(tactic, tokens, weight.data.itemsize, chip)
    block_t = rows_of_program(tokens, tactic)
    grid = (triton.cdiv(outputs, tactic.outputs), triton.cdiv(tokens, block_t))
    even = outputs % tactic.outputs == 0 and width % tactic.inputs == 0
    x_tiles, w_tiles = tiles_of(values_TD, weight, tactic, tactic.outputs, chip)
    if out_dtype == torch.float32:
        x_tiles = None  # logits gain nothing by it: so they have one kernel for any number of rows
    few = chip.overlaps and even and tokens <= FEW_TOKENS
    few_rows_kernel[grid](
        values_TD, values_TD.stride(0), x_tiles, x.scales_T1 if isinstance(x, QuantisedRows) else None, *root_of(x),
        weight.data, w_tiles, weight.extras[0] if scaled else None, weight.bias_N, residual_TN, y_TN, tokens, outputs,
        width, ahead_of(weight), SCALED=scaled, HAS_BIAS=weight.bias_N is not None,
        HAS_RESIDUAL=residual_TN is not None, EVEN=even, EXACT_DOT=values_TD.dtype == torch.float32,
        OVERLAPS=chip.overlaps, GROUPED=tokens > block_t, ROWS_FIRST=tactic.rows_first, BN=tactic.outputs,
        BT=block_t, BK=tactic.inputs, STAGES=tactic.stages, W_TMA=w_tiles is not None, X_TMA=x_tiles is not None,
        FEW=few, RELEASES=few and tactic.releases, num_warps=tactic.warps, num_stages=tactic.stages, **chip.launch,
    )  # fmt: skip
    return y_TN


def root_of(x: Tensor | QuantisedRows) -> tuple[Tensor | None, float, float]:
    """What `rooted` needs: sums of squares, their unit, and eps."""
    return (x.squares_T, x.unit, x.eps) if isinstance(x, NormedRows) else (None, 0.0, 0.0)


def ahead_of(weight: LinearWeight) -> int:
    """So many inputs, no more than there are."""
    row_bytes = weight.in_features * weight.data.itemsize
    ahead_bytes = min(row_bytes, max(_PIECE_BYTES, _AHEAD_BYTES // weight.out_features))
    return ahead_bytes // _PIECE_BYTES * _PIECE_BYTES // weight.data.itemsize


def tiles_of(
    values_TD: Tensor, weight: LinearWeight, tactic: Tactic, owned: int, chip: Chip
) -> tuple[TensorDescriptor | None, TensorDescriptor | None]:
    """Tiles of the rows, and of the weight, `owned` outputs each, where the accelerator brings them; else None.

    Tiles that reach beyond the rows take it long: a layer of 17 bfloat16 rows was 180 us instead of 123 (H200).
    """
    if not (tactic.tma and chip.has_tma and is_aligned(weight.data)):
        return None, None
    tokens = len(values_TD)
    block_t = rows_of_program(tokens, tactic)
    is_full = is_aligned(values_TD) and tokens % block_t == 0
    x_tiles = tiles(values_TD, block_t, tactic.inputs) if is_full else None
    return x_tiles, tiles(weight.data, owned, tactic.inputs)


def is_aligned(matrix: Tensor) -> bool:
    """Whether the accelerator can read it."""
    row_bytes = matrix.stride(0) * matrix.itemsize
    return not row_bytes % _TMA_BYTES and not matrix.data_ptr() % _TMA_BYTES


def tiles(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """What the accelerator must know to bring them; what is outside of the matrix becomes zeros."""
    return TensorDescriptor.from_tensor(matrix, [rows, columns])


def quantise(x_TD: Tensor, chip: Chip) -> QuantisedRows:
    """As `tradewind.kernels.quantised_rows.quantise_rows`, in one kernel."""
    tokens, width = x_TD.shape
    values_TD = torch.empty((tokens, width), dtype=FP8, device=x_TD.device)
    scales_T1 = torch.empty((tokens, 1), dtype=torch.float32, device=x_TD.device)
    if tokens:
        block = next_power_of_2(width)
        quantise_rows_kernel[(tokens,)](
            x_TD, x_TD.stride(0), values_TD, scales_T1, width, OVERLAPS=chip.overlaps, BLOCK=block,
            num_warps=max(1, min(16, block // 512)), **chip.launch,
        )  # fmt: skip
    return QuantisedRows(values_TD, scales_T1, x_TD.dtype)
