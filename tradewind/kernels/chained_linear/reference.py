"""chained_linear in plain torch: the truth."""

import torch
from torch import Tensor
from torch.nn import functional

from tradewind.kernels.chained_linear import GROUP, PreparedRows
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.linear import LinearWeight, fp8, fp8_blocks, int4, reference
from tradewind.kernels.quantised_rows import quantise_rows


class ReferenceChainedLinear:
    """See `tradewind.kernels.chained_linear.ChainedLinear`. `quantises`: the rows; their width is whole groups then."""

    steps = range(1, 1 << 30)

    def __init__(self, *, quantises: bool) -> None:
        self._quantises = quantises

    def takes(self, weight: LinearWeight) -> bool:
        """Any in a layout that `linear` has on a GPU, but for that of 12 bits."""
        return weight.layout in (reference.LAYOUT, fp8.LAYOUT, fp8_blocks.LAYOUT) or weight.layout.startswith("int4")

    def prepare(self, x_TD: Tensor, norm: Norm | None = None) -> PreparedRows:
        """See `ChainedLinear`."""
        return self._prepare(x_TD.float(), norm, x_TD.dtype)

    def linear(self, rows: PreparedRows, weight: LinearWeight) -> Tensor:
        """See `ChainedLinear`."""
        return _product(rows, weight).to(rows.dtype)

    def gated(self, rows: PreparedRows, weight: LinearWeight, next_weight: LinearWeight | None = None) -> PreparedRows:
        """See `ChainedLinear`."""
        del next_weight  # it changes no number
        gate_TF, up_TF = _product(rows, weight).chunk(2, -1)
        return self._prepare(functional.silu(gate_TF) * up_TF, None, rows.dtype)

    def add(
        self,
        rows: PreparedRows,
        weight: LinearWeight,
        residual_TN: Tensor,
        norm: Norm,
        next_weight: LinearWeight | None = None,
    ) -> PreparedRows:
        """See `ChainedLinear`."""
        del next_weight
        residual_TN.copy_(_product(rows, weight) + residual_TN.float())
        return self._prepare(residual_TN.float(), norm, rows.dtype)

    def _prepare(self, wide_TD: Tensor, norm: Norm | None, dtype: torch.dtype) -> PreparedRows:
        squares_GT = None if norm is None else wide_TD.square().sum(1).unsqueeze(0)
        if norm is not None:
            wide_TD = wide_TD * norm.weight_D.float()
        eps = 0.0 if norm is None else norm.eps
        if not self._quantises:
            return PreparedRows(wide_TD.to(dtype), None, squares_GT, eps, dtype)
        groups = quantise_rows(wide_TD.reshape(len(wide_TD), wide_TD.shape[1] // GROUP, GROUP))
        return PreparedRows(
            groups.values_TD.flatten(1), groups.scales_T1.squeeze(2).t().contiguous(), squares_GT, eps, dtype
        )


def _product(rows: PreparedRows, weight: LinearWeight) -> Tensor:
    y_TN = rows.dense() @ _dense(weight).T
    return y_TN if weight.bias_N is None else y_TN + weight.bias_N.float()


def _dense(weight: LinearWeight) -> Tensor:
    if weight.layout == reference.LAYOUT:
        return weight.data.float()
    if weight.layout == fp8.LAYOUT:
        return fp8.dense(weight)
    if weight.layout == fp8_blocks.LAYOUT:
        return fp8_blocks.dense(weight, torch.float32)
    return int4.dense(weight, torch.float32)
