"""silu_mul in Triton: by pieces of a row where it only multiplies, a whole row at once where it quantises."""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.quantised_rows import FP8, QuantisedRows

_PIECE = 1024


@triton.jit
def gated(gate, up):
    """silu(gate) * up, of float32 numbers.

    The sigmoid as the square of a root: an instruction, where a quotient takes five. The exponential may overflow to
    infinity, which gives the right 0.
    """
    root = tl.rsqrt(1.0 + tl.exp2(gate * -1.4426950408889634))
    return gate * (root * root) * up


@triton.jit
def silu_mul_kernel(
    gate_up, stride, out, scales, F, QUANTISES: tl.constexpr, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr
):
    """Program (t, i) does the i-th BLOCK of row t; there is one only if it quantises."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < F
    release(OVERLAPS)
    begin(OVERLAPS)
    gate = tl.load(gate_up + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + F + column, mask=inside, other=0.0).to(tl.float32)
    act = gated(gate, up)
    if QUANTISES:
        largest = tl.maximum(tl.max(tl.abs(act), 0), 1e-30)
        act = in_range(act * (448.0 / largest))
        tl.store(scales + row, largest / 448.0)
    tl.store(out + row * F + column, act.to(out.dtype.element_ty), mask=inside)


class TritonSiluMul:
    """`plain` is a `SiluMul`, `quantising` a `QuantisingSiluMul` (see the package)."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def plain(self, gate_up_T2F: Tensor) -> Tensor:
        """The product in the dtype of its inputs."""
        tokens, width = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
        out_TF = torch.empty((tokens, width), dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
        self._run(gate_up_T2F, out_TF, None, min(_PIECE, next_power_of_2(width)))
        return out_TF

    def quantising(self, gate_up_T2F: Tensor) -> QuantisedRows:
        """The product in 8 bits."""
        tokens, width = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
        out_TF = torch.empty((tokens, width), dtype=FP8, device=gate_up_T2F.device)
        scales_T1 = torch.empty((tokens, 1), dtype=torch.float32, device=gate_up_T2F.device)
        self._run(gate_up_T2F, out_TF, scales_T1, next_power_of_2(width))
        return QuantisedRows(out_TF, scales_T1, gate_up_T2F.dtype)

    def _run(self, gate_up_T2F: Tensor, out_TF: Tensor, scales_T1: Tensor | None, block: int) -> None:
        tokens, width = out_TF.shape
        if tokens:
            silu_mul_kernel[(tokens, triton.cdiv(width, block))](
                gate_up_T2F, gate_up_T2F.stride(0), out_TF, scales_T1, width, QUANTISES=scales_T1 is not None,
                OVERLAPS=self._chip.overlaps, BLOCK=block, num_warps=max(1, min(32, block // 512)),
                **self._chip.launch,
            )  # fmt: skip
