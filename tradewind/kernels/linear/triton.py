"""linear in Triton for few rows: every weight is read once, at the pace of the memory.

The weights are the tall operand of the tensor cores and the rows the narrow one, or the other way round. A program owns
some outputs and goes through all inputs in one order, so a row's result does not depend on the rows beside it: nor on
the tile, for the tensor cores of Hopper add the products of two 16-bit numbers alike whatever the tile (`is_exact`).
With 8-bit weights the rows are 8-bit too, each with its own scale, and so is each output's weight.

Legend beyond the package's: BN outputs of a program, BT rows, BK inputs at a time.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import ask_for, begin, release
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.tactics import Tactic
from tradewind.kernels.quantised_rows import FP8, QuantisedRows

_FEW = 64  # rows for which weights are asked for ahead
_AHEAD_BYTES = 512  # of each output's weights; twice that was as fast, four times slower


@triton.jit(do_not_specialize=["T"])
def few_rows_kernel(
    x, x_stride, x_scales, w, w_scales, bias, residual, y, T, N, D,
    SCALED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, EVEN: tl.constexpr,
    EXACT_DOT: tl.constexpr, OVERLAPS: tl.constexpr, GROUPED: tl.constexpr,
    ROWS_FIRST: tl.constexpr, BN: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
):  # fmt: skip
    """A program: BN outputs of BT rows. EVEN: BN divides N, and BK divides D.

    ROWS_FIRST: the rows are the tall operand (their tile is filled up with zeros), else the weights are. GROUPED:
    programs that run side by side share weights and rows, 16 tiles of these at a time, so that caches hold both. AHEAD:
    of so many inputs, D at most, the weights are asked for before the kernel before this one is over.
    """
    output_tile, row_tile = tl.program_id(0), tl.program_id(1)
    if GROUPED:
        row_tile, output_tile = tl.swizzle2d(row_tile, output_tile, tl.num_programs(1), tl.num_programs(0), 16)
    output = output_tile * BN + tl.arange(0, BN)
    token = row_tile * BT + tl.arange(0, BT)
    if AHEAD:
        ask_for(w + output.to(tl.int64) * D, AHEAD)
    begin(OVERLAPS)
    acc = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
    inner = tl.arange(0, BK)
    w_at = w + output.to(tl.int64)[:, None] * D + inner[None, :]
    x_at = x + token.to(tl.int64)[:, None] * x_stride + inner[None, :]
    for k in tl.range(0, D, BK, num_stages=STAGES):
        if EVEN:
            w_tile = tl.load(w_at + k, eviction_policy="evict_first")
            x_tile = tl.load(x_at + k, mask=token[:, None] < T, other=0.0)
        else:
            w_tile = tl.load(w_at + k, mask=(output < N)[:, None] & (inner + k < D)[None, :], other=0.0)
            x_tile = tl.load(x_at + k, mask=(token < T)[:, None] & (inner + k < D)[None, :], other=0.0)
        if ROWS_FIRST:
            acc = tl.dot(x_tile, tl.trans(w_tile), acc, input_precision="ieee" if EXACT_DOT else "tf32")
        else:
            acc = tl.dot(w_tile, tl.trans(x_tile), acc, input_precision="ieee" if EXACT_DOT else "tf32")
    if not ROWS_FIRST:
        acc = tl.trans(acc)
    if SCALED:
        acc *= tl.load(x_scales + token, mask=token < T, other=0.0)[:, None]
        acc *= tl.load(w_scales + output, mask=output < N, other=0.0)[None, :]
    if HAS_BIAS:
        acc += tl.load(bias + output, mask=output < N, other=0.0).to(tl.float32)[None, :]
    y_at = token.to(tl.int64)[:, None] * N + output[None, :]
    inside = (token < T)[:, None] & (output < N)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + y_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def quantise_rows_kernel(x, x_stride, out, scales, D, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr):
    """One program for each row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    release(OVERLAPS)
    begin(OVERLAPS)
    wide = tl.load(x + row * x_stride + column, mask=column < D, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(wide), 0), 1e-30) / 448.0
    tl.store(out + row * D + column, tl.clamp(wide / scale, -448.0, 448.0).to(out.dtype.element_ty), mask=column < D)
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
    block_t = rows_of_program(tokens, tactic)
    grid = (triton.cdiv(outputs, tactic.outputs), triton.cdiv(tokens, block_t))
    even = outputs % tactic.outputs == 0 and width % tactic.inputs == 0
    few_rows_kernel[grid](
        values_TD, values_TD.stride(0), x.scales_T1 if isinstance(x, QuantisedRows) else None, weight.data,
        weight.extras[0] if scaled else None, weight.bias_N, residual_TN, y_TN, tokens, outputs, width,
        SCALED=scaled, HAS_BIAS=weight.bias_N is not None, HAS_RESIDUAL=residual_TN is not None, EVEN=even,
        EXACT_DOT=values_TD.dtype == torch.float32, OVERLAPS=chip.overlaps,
        GROUPED=tokens > block_t, ROWS_FIRST=tactic.rows_first, BN=tactic.outputs, BT=block_t, BK=tactic.inputs,
        STAGES=tactic.stages, AHEAD=_ahead(weight) if chip.overlaps and even and tokens <= _FEW else 0,
        num_warps=tactic.warps, num_stages=tactic.stages, **chip.launch,
    )  # fmt: skip
    return y_TN


def _ahead(weight: LinearWeight) -> int:
    """A power of two, and no more than there are inputs."""
    inputs = min(weight.in_features, _AHEAD_BYTES // weight.data.itemsize)
    return 1 << (inputs.bit_length() - 1)


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
