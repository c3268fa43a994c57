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


@dataclass(frozen=True)
class MeasuredRows(QuantisedRows):
    """And how long each row is: squares_TG, float32, are sums of its numbers' squares, each of a part of them."""

    squares_TG: Tensor


@dataclass(frozen=True)
class NormedRows(QuantisedRows):
    """Normed rows, but for the root, which is left to who multiplies: x = values * scales / sqrt(mean square + eps).

    The norm's gain is in the values already. The square is that of the residual sum, of which the values were made:
    squares_ST[turn] are sums of its numbers' squares, int64, in units of (scale * unit)^2. So the programs that add to
    them may come in any order. Each residual sum of a step has a turn, and those to come are 0. Contiguous.
    """

    squares_ST: Tensor
    turn: int
    unit: float
    eps: float

    @property
    def squares_T(self) -> Tensor:
        return self.squares_ST[self.turn]

    def dense(self) -> Tensor:
        """The numbers, float32."""
        mean_T1 = self.lengths_T1().square() / self.values_TD.shape[1]
        return super().dense() / (mean_T1 + self.eps).sqrt()

    def lengths_T1(self) -> Tensor:
        """Of the residual sum: the roots of the sums of its numbers' squares, float32."""
        return self.squares_T.float().sqrt().unsqueeze(1) * (self.scales_T1 * self.unit)


Activations = Tensor | QuantisedRows


def quantise_rows(x_TD: Tensor, dtype: torch.dtype | None = None) -> QuantisedRows:
    """Each row by itself: its largest number becomes 448. `dtype`: of the activations (None: x's own)."""
    wide_TD = x_TD.float()
    largest_T1 = wide_TD.abs().amax(dim=-1, keepdim=True) if x_TD.shape[1] else wide_TD.new_zeros(len(x_TD), 1)
    scales_T1 = largest_T1.clamp(min=torch.finfo(torch.float32).tiny * FP8_MAX) / FP8_MAX
    values_TD = (wide_TD / scales_T1).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return QuantisedRows(values_TD, scales_T1, dtype or x_TD.dtype)
