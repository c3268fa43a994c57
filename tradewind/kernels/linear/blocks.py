"""Products of many rows with weights that only have scales for parts of their inputs, in Triton.

Blocks of 8-bit floats (fp8_blocks.py): the rows become 8-bit floats too, 128 columns of a row sharing a scale, and the
sum over each 128 inputs is scaled. Weights of 4 bits (int4.py) or 12 (lossless.py) become 16-bit numbers in memory, for
the vendor's product.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.fused_linear.decoding import exception_at, load_weights, numbers, placeholder
from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import begin
from tradewind.kernels.linear import LinearWeight, int4
from tradewind.kernels.linear.fp8_blocks import BLOCK
from tradewind.kernels.quantised_rows import FP8

# Outputs and rows of a program, warps, stages.
TILE = (128, 128, 8, 4)


@triton.jit(do_not_specialize=["T"])
def quantise_groups_kernel(x, x_stride, out, scales, T, D, OVERLAPS: tl.constexpr, GROUPS: tl.constexpr):
    """Program (t, i): GROUPS times 128 columns of row t. `scales` [D / 128, T]; the last group may be cut off."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    begin(OVERLAPS)
    wide = tl.load(x + row * x_stride + column, mask=column < D, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(wide), 1), 1e-30) / 448.0
    values = in_range(wide / scale[:, None])
    tl.store(out + row * D + column, values.to(out.dtype.element_ty), mask=column < D)
    tl.store(scales + group * T + row, scale, mask=group * 128 < D)


@triton.jit(do_not_specialize=["T"])
def blocks_kernel(
    x, x_scales, w, w_scales, bias, residual, y, T, N, D,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, EVEN: tl.constexpr, OVERLAPS: tl.constexpr,
    BN: tl.constexpr, BT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (i, j): rows [i * BT, ...) of outputs [j * BN, ...), BN dividing 128. EVEN: BN divides N, and 128 D."""
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    output = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, 128)
    acc = tl.zeros([BT, BN], tl.float32)
    w_at = w + output.to(tl.int64)[:, None] * D + inner[None, :]
    x_at = x + token.to(tl.int64)[:, None] * D + inner[None, :]
    w_scales += tl.program_id(1) * BN // 128 * tl.cdiv(D, 128)
    begin(OVERLAPS)
    for k in tl.range(0, D, 128, num_stages=STAGES):
        if EVEN:
            w_tile = tl.load(w_at + k)
            x_tile = tl.load(x_at + k, mask=token[:, None] < T, other=0.0)
        else:
            w_tile = tl.load(w_at + k, mask=(output < N)[:, None] & (inner + k < D)[None, :], other=0.0)
            x_tile = tl.load(x_at + k, mask=(token < T)[:, None] & (inner + k < D)[None, :], other=0.0)
        scale = tl.load(x_scales + k // 128 * T + token, mask=token < T, other=0.0) * tl.load(w_scales + k // 128)
        acc += tl.dot(x_tile, tl.trans(w_tile)) * scale[:, None]
    if HAS_BIAS:
        acc += tl.load(bias + output, mask=output < N, other=0.0).to(tl.float32)[None, :]
    y_at = token.to(tl.int64)[:, None] * N + output[None, :]
    inside = (token < T)[:, None] & (output < N)[None, :]
    if HAS_RESIDUAL:
        acc += tl.load(residual + y_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def widen_kernel(w, scales, out, N, D, WIDTH, GROUP: tl.constexpr, OVERLAPS: tl.constexpr, ROWS: tl.constexpr):
    """Program (i, j): ROWS rows of w, and of each of its four parts the j-th GROUP of numbers."""
    output = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    inside = (output < N)[:, None]
    raw = tl.load(w + output.to(tl.int64)[:, None] * WIDTH + column[None, :], mask=inside, other=0)
    begin(OVERLAPS)  # what is written here may still be read
    for part in tl.static_range(4):
        first = part * WIDTH + column
        scale = tl.load(scales + (part * WIDTH // GROUP + tl.program_id(1)) * N + output, mask=output < N, other=0.0)
        values = (((raw >> (4 * part)) & 15).to(tl.float32) - 8.0) * scale.to(tl.float32)[:, None]
        into = out + output.to(tl.int64)[:, None] * D + first[None, :]
        tl.store(into, values.to(out.dtype.element_ty), mask=inside & (first < D)[None, :])


@triton.jit
def restore_kernel(w, scales, out, N, D, WIDTH, IN_PAIRS: tl.constexpr, OVERLAPS: tl.constexpr, ROWS: tl.constexpr):
    """Program (i, j): ROWS rows of w, and the j-th 128 words of each of their three planes. Exceptions are left out."""
    output = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inner = tl.arange(0, 128)
    k = tl.program_id(1) * 128
    w_at = w + output.to(tl.int64)[:, None] * (3 * WIDTH) + inner[None, :]
    planes = load_weights(w_at, k, output, N, inner, WIDTH, 3, False)
    scale = tl.load(scales + output, mask=output < N, other=0.0)
    begin(OVERLAPS)  # what is written here may still be read
    for part in tl.static_range(4):
        column = part * WIDTH + k + inner
        values = numbers(planes, scale, part, 4, 3, IN_PAIRS) * scale[:, None]
        into = out + output.to(tl.int64)[:, None] * D + column[None, :]
        inside = (output < N)[:, None] & ((k + inner < WIDTH) & (column < D))[None, :]
        tl.store(into, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def put_exceptions_kernel(
    exceptions, scales, out, N, D, COUNT: tl.constexpr, OVERLAPS: tl.constexpr, ROWS: tl.constexpr
):
    """Program i: those of ROWS rows."""
    output = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    scale = tl.load(scales + output, mask=output < N, other=0.0)
    slots_at = exceptions + output * COUNT + tl.arange(0, COUNT)[None, :]
    column, number = exception_at(slots_at, output, N)
    begin(OVERLAPS)
    is_used = number != placeholder(scale)
    tl.store(out + output.to(tl.int64) * D + column, number.to(out.dtype.element_ty), mask=(output < N) & is_used)


def quantise_groups(x_TD: Tensor, chip: Chip, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """float8_e4m3fn [T, D], and the scale of each 128 columns of a row, float32 [D / 128, T].

    `multiple`: of what T is; rows that are added to that end hold anything.
    """
    tokens, width = x_TD.shape
    groups, rows = triton.cdiv(width, BLOCK), -(-tokens // multiple) * multiple
    values_TD = torch.empty((rows, width), dtype=FP8, device=x_TD.device)
    scales_KT = torch.empty((groups, rows), dtype=torch.float32, device=x_TD.device)
    if tokens:
        at_once = min(32, next_power_of_2(groups))
        quantise_groups_kernel[(tokens, triton.cdiv(groups, at_once))](
            x_TD, x_TD.stride(0), values_TD, scales_KT, rows, width, OVERLAPS=chip.overlaps, GROUPS=at_once,
            num_warps=4, **chip.launch,
        )  # fmt: skip
    return values_TD, scales_KT


def by_vendor(x_TD: Tensor, weight: LinearWeight, chip: Chip) -> Tensor | None:
    """The product by cuBLAS, bfloat16, of rows that are quantised on the way. None: it does not have this one."""
    if x_TD.dtype != torch.bfloat16 or weight.bias_N is not None or not chip.has_block_product:
        return None
    if not len(x_TD) or weight.out_features % BLOCK or weight.in_features % BLOCK:
        return None
    values_TD, scales_KT = quantise_groups(x_TD, chip, 16)
    scale_a, scale_b = scales_KT.t(), weight.extras[0].t()
    y_TN = torch._scaled_mm(values_TD, weight.data.t(), scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16)
    return y_TN[: len(x_TD)]


def blocks_product(
    x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype, chip: Chip
) -> Tensor:
    """y_TN in `out_dtype`; the rows are quantised on the way."""
    tokens, width = x_TD.shape
    outputs = weight.out_features
    y_TN = torch.empty((tokens, outputs), dtype=out_dtype, device=x_TD.device)
    if not tokens:
        return y_TN
    values_TD, scales_KT = quantise_groups(x_TD, chip)
    block_n, block_t, warps, stages = TILE
    blocks_kernel[(triton.cdiv(tokens, block_t), triton.cdiv(outputs, block_n))](
        values_TD, scales_KT, weight.data, weight.extras[0], weight.bias_N, residual_TN, y_TN, tokens, outputs, width,
        HAS_BIAS=weight.bias_N is not None, HAS_RESIDUAL=residual_TN is not None,
        EVEN=outputs % block_n == 0 and width % BLOCK == 0, OVERLAPS=chip.overlaps, BN=block_n, BT=block_t,
        STAGES=stages, num_warps=warps, num_stages=stages, **chip.launch,
    )  # fmt: skip
    return y_TN


def widen(weight: LinearWeight, dtype: torch.dtype, chip: Chip) -> Tensor:
    """As `tradewind.kernels.linear.int4.dense`, in one kernel."""
    outputs, inputs = weight.out_features, weight.in_features
    out_ND = torch.empty((outputs, inputs), dtype=dtype, device=weight.data.device)
    stored, group, rows = weight.data.shape[1], int4.group_of(weight), 16
    widen_kernel[(triton.cdiv(outputs, rows), stored // group)](
        weight.data, weight.extras[0], out_ND, outputs, inputs, stored, GROUP=group, OVERLAPS=chip.overlaps,
        ROWS=rows, num_warps=4, **chip.launch,
    )  # fmt: skip
    return out_ND


def restore(weight: LinearWeight, chip: Chip) -> Tensor:
    """As `tradewind.kernels.linear.lossless.dense`, in two kernels."""
    outputs, inputs = weight.out_features, weight.in_features
    out_ND = torch.empty((outputs, inputs), dtype=torch.bfloat16, device=weight.data.device)
    stored, rows = weight.data.shape[2], 16
    scales_N, exceptions_NE = weight.extras
    programs = triton.cdiv(outputs, rows)
    restore_kernel[(programs, triton.cdiv(stored, 128))](
        weight.data, scales_N, out_ND, outputs, inputs, stored, IN_PAIRS=out_ND.is_cuda, OVERLAPS=chip.overlaps,
        ROWS=rows, num_warps=4, **chip.launch,
    )  # fmt: skip
    put_exceptions_kernel[(programs,)](
        exceptions_NE, scales_N, out_ND, outputs, inputs, COUNT=exceptions_NE.shape[1], OVERLAPS=chip.overlaps,
        ROWS=rows, num_warps=4, **chip.launch,
    )  # fmt: skip
    return out_ND
