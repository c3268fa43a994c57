"""add_rms_norm in Triton: one program for each row, with or without quantising what comes out."""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.quantised_rows import FP8, QuantisedRows


@triton.jit
def add_rms_norm_kernel(
    x, x_stride, residual, weight, out, scales, D, eps,
    HAS_RESIDUAL: tl.constexpr, QUANTISES: tl.constexpr, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`residual` (dense) is read and overwritten by the sum; `scales` is written if it quantises."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    gain = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    release(OVERLAPS)
    begin(OVERLAPS)
    total = tl.load(x + row * x_stride + column, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        old = tl.load(residual + row * D + column, mask=inside, other=0.0)
        total = (total.to(tl.float32) + old.to(tl.float32)).to(total.dtype)
        tl.store(residual + row * D + column, total, mask=inside)
    wide = total.to(tl.float32)
    normed = wide * (1.0 / tl.sqrt(tl.sum(wide * wide, 0) / D + eps)) * gain
    if QUANTISES:
        scale = tl.maximum(tl.max(tl.abs(normed), 0), 1e-30) / 448.0
        normed = in_range(normed / scale)
        tl.store(scales + row, scale)
    tl.store(out + row * D + column, normed.to(out.dtype.element_ty), mask=inside)


class TritonAddRmsNorm:
    """`plain` is an `AddRmsNorm`, `quantising` a `QuantisingAddRmsNorm` (see the package)."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def plain(self, x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The normed rows in x's dtype, and the sum."""
        out_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
        return out_TD, self._run(x_TD, residual_TD, weight_D, eps, out_TD, None)

    def quantising(
        self, x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float
    ) -> tuple[QuantisedRows, Tensor]:
        """The normed rows in 8 bits, and the sum."""
        out_TD = torch.empty(x_TD.shape, dtype=FP8, device=x_TD.device)
        scales_T1 = torch.empty((len(x_TD), 1), dtype=torch.float32, device=x_TD.device)
        total_TD = self._run(x_TD, residual_TD, weight_D, eps, out_TD, scales_T1)
        return QuantisedRows(out_TD, scales_T1, x_TD.dtype), total_TD

    def _run(
        self,
        x_TD: Tensor,
        residual_TD: Tensor | None,
        weight_D: Tensor,
        eps: float,
        out_TD: Tensor,
        scales_T1: Tensor | None,
    ) -> Tensor:
        tokens, width = x_TD.shape
        if tokens:
            block = next_power_of_2(width)
            add_rms_norm_kernel[(tokens,)](
                x_TD, x_TD.stride(0), residual_TD, weight_D, out_TD, scales_T1, width, eps,
                HAS_RESIDUAL=residual_TD is not None, QUANTISES=scales_T1 is not None, OVERLAPS=self._chip.overlaps,
                BLOCK=block, num_warps=max(1, min(16, block // 512)), **self._chip.launch,
            )  # fmt: skip
        return x_TD.contiguous() if residual_TD is None else residual_TD
