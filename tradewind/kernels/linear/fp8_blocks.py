"""linear with weights in 8-bit floats, a scale for each block of 128 x 128: the layout, and the truth in torch.

Checkpoints of DeepSeek-V3 and Qwen3 come so (`weight_block_size` [128, 128], `weight_scale_inv`;
https://arxiv.org/abs/2412.19437, section 3.3). They are made for rows that are quantised too, 128 columns of a row
sharing a scale. A single row stays as it is here, and up to 16 where chained_linear cannot be used: it is more exact.
"""

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight, reference
from tradewind.kernels.quantised_rows import FP8, FP8_MAX

LAYOUT = "fp8-blocks"
BLOCK = 128


def pack(weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
    """See `tradewind.kernels.linear.Pack`. `data`: float8_e4m3fn [N, D]; `extras`: scales, float32 [N/128, D/128]."""
    outputs, inputs = weight_ND.shape
    values_ND = torch.empty((outputs, inputs), dtype=FP8, device=weight_ND.device)
    scales = []
    for first in range(0, outputs, BLOCK):
        wide = weight_ND[first : first + BLOCK].float()
        largest_D = torch.nn.functional.pad(wide.abs().amax(0), (0, -inputs % BLOCK))
        scales_K = largest_D.view(-1, BLOCK).amax(1).clamp(min=torch.finfo(torch.float32).tiny * FP8_MAX) / FP8_MAX
        values_ND[first : first + BLOCK] = (wide / scales_K.repeat_interleave(BLOCK)[:inputs]).to(FP8)
        scales.append(scales_K)
    return LinearWeight(values_ND, bias_N, outputs, inputs, LAYOUT, (torch.stack(scales),))


def linear(x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """See `tradewind.kernels.linear.Linear`."""
    return product(x_TD, weight, residual_TN).to(x_TD.dtype)


def product(x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """The same, not rounded: float32."""
    return reference.product(x_TD.float(), dense(weight, torch.float32), weight, residual_TN)


def dense(weight: LinearWeight, dtype: torch.dtype) -> Tensor:
    """The weight's numbers, [N, D]."""
    return spread(weight.data, weight.extras[0], BLOCK, BLOCK).to(dtype)


def spread(values_ND: Tensor, scales: Tensor, outputs: int, inputs: int) -> Tensor:
    """values * scales in float32, a scale for each block of so many outputs and inputs; the last may be cut off."""
    rows, columns = values_ND.shape
    scales_ND = scales.float().repeat_interleave(outputs, 0)[:rows].repeat_interleave(inputs, 1)[:, :columns]
    return values_ND.float() * scales_ND


def kernel() -> LinearKernel:
    """The op, as `tradewind.kernels.linear.choose` wants it."""
    return LinearKernel(pack, linear, logits=product)
