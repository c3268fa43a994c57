"""linear with 4-bit weights and 16-bit rows: the layout for GPUs, and the torch version, which is the truth.

A weight is W = scale * q, q whole and in -7..7, with one scale for each group of inputs of an output. The rows of x
stay as they are. The inputs are cut into four parts of equal length, filled up with zeros to whole groups: number j of
a row of `data` holds q + 8 of the j-th input of each part, the first part's in its lowest bits. So whoever reads
neighbouring numbers gets neighbouring inputs of every part, and needs no shuffle.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight, reference
from tradewind.kernels.linear.quantisation import Quantisation

PARTS = 4
_LARGEST = 7
_ROWS_AT_ONCE = 8192  # of a weight: quantising takes float32 copies


@dataclass(frozen=True)
class Int4:
    """`group`: how many inputs share a scale."""

    group: int

    @property
    def layout(self) -> str:
        """The name of the layout: another one than the CPU's."""
        return f"{Quantisation(4, self.group).layout}-quarters"

    def pack(self, weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
        """See `tradewind.kernels.linear.Pack`. `data`: int16 [N, part]; `extras`: the scales, float16 [groups, N]."""
        outputs, inputs = weight_ND.shape
        part = -(-inputs // (PARTS * self.group)) * self.group
        data = torch.empty((outputs, part), dtype=torch.int16, device=weight_ND.device)
        scales_GN = torch.empty((PARTS * part // self.group, outputs), dtype=torch.float16, device=weight_ND.device)
        for first in range(0, outputs, _ROWS_AT_ONCE):
            some = slice(first, min(first + _ROWS_AT_ONCE, outputs))
            data[some], scales_GN[:, some] = self._quantise(weight_ND[some], part)
        return LinearWeight(data, bias_N, outputs, inputs, self.layout, (scales_GN,))

    def _quantise(self, weight_ND: Tensor, part: int) -> tuple[Tensor, Tensor]:
        outputs, inputs = weight_ND.shape
        padded = torch.nn.functional.pad(weight_ND.float(), (0, PARTS * part - inputs))
        groups_NGK = padded.view(outputs, -1, self.group)
        scales_NG1 = (groups_NGK.abs().amax(2, keepdim=True) / _LARGEST).half()
        steps_NG1 = scales_NG1.float().clamp(min=torch.finfo(torch.float16).smallest_normal)
        q_NGK = (groups_NGK / steps_NG1).round().clamp(-_LARGEST, _LARGEST).int() + 8
        q_NPK = q_NGK.view(outputs, PARTS, part)
        packed = q_NPK[:, 0] | q_NPK[:, 1] << 4 | q_NPK[:, 2] << 8 | q_NPK[:, 3] << 12
        return packed.to(torch.int16), scales_NG1.squeeze(2).t()

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        return self.product(x_TD, weight, residual_TN).to(x_TD.dtype)

    def product(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """The same, not rounded: float32."""
        return reference.product(x_TD.float(), dense(weight, torch.float32), weight, residual_TN)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it. An embedding of 4 bits would harm all that follows."""
        return LinearKernel(self.pack, self.linear, logits=self.product)


def group_of(weight: LinearWeight) -> int:
    """How many inputs share a scale."""
    return PARTS * weight.data.shape[1] // weight.extras[0].shape[0]


def dense(weight: LinearWeight, dtype: torch.dtype) -> Tensor:
    """The weight's numbers, [N, D]."""
    parts = [(weight.data.int() >> 4 * part & 15) - 8 for part in range(PARTS)]
    scales_NG = weight.extras[0].t()
    q_NGK = torch.cat(parts, 1).view(weight.out_features, scales_NG.shape[1], -1)
    values_ND = (q_NGK * scales_NG.float().unsqueeze(2)).view(weight.out_features, -1)
    return values_ND[:, : weight.in_features].to(dtype)
