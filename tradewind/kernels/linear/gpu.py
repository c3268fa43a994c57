"""linear on a GPU: Triton's kernel of few rows where reading the weights is all, the vendor's product elsewhere."""

import torch
from torch import Tensor
from torch.nn import functional

from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import LinearKernel, LinearWeight, fp8, reference
from tradewind.kernels.linear.tactics import Tactic, Tactics
from tradewind.kernels.linear.triton import few_rows, quantise
from tradewind.kernels.quantised_rows import Activations, QuantisedRows

# One order of summation for every number of rows.
_EXACT = Tactic(64, 64, 4, 3, rows_first=True)


class GpuLinear:
    """Dense weights. `exact`: a row's result does not depend on how many others there are; it costs speed."""

    def __init__(self, chip: Chip, tactics: Tactics, *, exact: bool = False) -> None:
        self._chip = chip
        self._tactics = tactics
        self._exact = exact

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        tactic = self._tactic(x_TD, weight)
        if tactic is not None:
            return few_rows(x_TD, weight, residual_TN, x_TD.dtype, tactic, self._chip)
        y_TN = functional.linear(x_TD, weight.data, weight.bias_N)
        return y_TN if residual_TN is None else y_TN.add_(residual_TN)

    def logits(self, x_RD: Tensor, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        tactic = self._tactic(x_RD, weight)
        if tactic is not None:
            return few_rows(x_RD, weight, None, torch.float32, tactic, self._chip)
        return functional.linear(x_RD, weight.data, weight.bias_N).float()

    def _tactic(self, x_TD: Tensor, weight: LinearWeight) -> Tactic | None:
        if x_TD.dtype == torch.float32 and not self._exact:
            return None
        return _EXACT if self._exact else _find(self._tactics, len(x_TD), weight)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(reference.pack, self.linear, logits=self.logits)


class GpuFp8Linear:
    """8-bit weights, as in fp8.py."""

    def __init__(self, chip: Chip, tactics: Tactics, *, exact: bool = False) -> None:
        self._chip = chip
        self._tactics = tactics
        self._exact = exact

    def linear(self, x: Activations, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        return self._product(x, weight, residual_TN, x.dtype)

    def logits(self, x: Activations, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        return self._product(x, weight, None, torch.float32).float()

    def _product(
        self, x: Activations, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype
    ) -> Tensor:
        rows = x if isinstance(x, QuantisedRows) else quantise(x, self._chip)
        tactic = _EXACT if self._exact else _find(self._tactics, rows.shape[0], weight)
        if tactic is None and (weight.in_features % 16 or weight.out_features % 16):
            tactic = _EXACT  # cuBLAS takes multiples of 16 only
        if tactic is not None:
            return few_rows(rows, weight, residual_TN, out_dtype, tactic, self._chip)
        y_TN = fp8.by_vendor(rows, weight)
        y_TN = y_TN.to(x.dtype)
        return y_TN if residual_TN is None else y_TN.add_(residual_TN)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(fp8.pack, self.linear, logits=self.logits)


def _find(tactics: Tactics, rows: int, weight: LinearWeight) -> Tactic | None:
    return tactics.find(8 * weight.data.itemsize, rows, weight.out_features, weight.in_features)
