"""linear_add_norm in plain torch: the truth."""

from collections.abc import Iterable

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearWeight, fp8
from tradewind.kernels.linear_add_norm import LEAST, ROUNDED, UNITS, Bounded
from tradewind.kernels.quantised_rows import FP8, FP8_MAX, MeasuredRows, NormedRows


class ReferenceLinearAddNorm:
    """See `tradewind.kernels.linear_add_norm.LinearAddNorm`. `dtype`: of the values, float32 for those not rounded."""

    def __init__(self, dtype: torch.dtype = FP8) -> None:
        self._dtype = dtype

    def takes(self, tokens: int, weights: Iterable[LinearWeight]) -> bool:
        """See `LinearAddNorm`."""
        return tokens > 0 and all(weight.layout == fp8.LAYOUT for weight in weights)

    def begin(self, x_TD: Tensor, bounded: Bounded, turns: int) -> NormedRows:
        """See `LinearAddNorm`."""
        squares_ST = torch.zeros((turns, len(x_TD)), dtype=torch.int64, device=x_TD.device)
        return self._normed(x_TD, x_TD.float().abs().amax(1, keepdim=True), squares_ST, 0, bounded)

    def __call__(
        self, rows: MeasuredRows, weight: LinearWeight, residual_TD: Tensor, before: NormedRows, bounded: Bounded
    ) -> NormedRows:
        residual_TD.copy_(fp8.product(rows, weight, residual_TD))
        of_rows_T1 = bounded.of_rows * rows.squares_TG.sum(1, keepdim=True).sqrt()
        largest_T1 = ROUNDED * (before.lengths_T1() + of_rows_T1 + bounded.rise)
        return self._normed(residual_TD, largest_T1, before.squares_ST, before.turn + 1, bounded)

    def _normed(self, x_TD: Tensor, largest_T1: Tensor, squares_ST: Tensor, turn: int, bounded: Bounded) -> NormedRows:
        wide_TD, largest_T1 = x_TD.float(), largest_T1.clamp(min=LEAST)
        squares_ST[turn] += (wide_TD * (UNITS / largest_T1)).square().sum(1).long()
        scales_T1 = largest_T1 * bounded.gain / FP8_MAX
        values_TD = (wide_TD * bounded.norm.weight_D.float() / scales_T1).clamp(-FP8_MAX, FP8_MAX).to(self._dtype)
        return NormedRows(values_TD, scales_T1, x_TD.dtype, squares_ST, turn, bounded.unit, bounded.norm.eps)
