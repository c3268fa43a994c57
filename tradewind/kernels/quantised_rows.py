"""Activations in 8-bit floats, each row with a scale of its own.

The float is e4m3: 448 is its largest number, and it has 3 bits of mantissa (https://arxiv.org/abs/2209.05433).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


@dataclass(frozen=True)
class QuantisedRows:
    """x = values * scales: what a quantising norm, gate or attention gives to the next `linear`.

    values_TD: float8_e4m3fn, contiguous. scales_T1: float32, contiguous. `dtype`: that of the activations.
    """

    values_TD: Tensor
    scales_T1: Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.values_TD.shape

    def dense(self) -> Tensor:
        """The numbers, float32."""
        return self.values_TD.float() * self.scales_T1


Activations = Tensor | QuantisedRows


def quantise_rows(x_TD: Tensor, dtype: torch.dtype | None = None) -> QuantisedRows:
    """Each row by itself: its largest number becomes 448. `dtype`: of the activations (None: x's own)."""
    wide_TD = x_TD.float()
    largest_T1 = wide_TD.abs().amax(dim=-1, keepdim=True) if x_TD.shape[1] else wide_TD.new_zeros(len(x_TD), 1)
    scales_T1 = largest_T1.clamp(min=torch.finfo(torch.float32).tiny * FP8_MAX) / FP8_MAX
    values_TD = (wide_TD / scales_T1).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return QuantisedRows(values_TD, scales_T1, dtype or x_TD.dtype)
