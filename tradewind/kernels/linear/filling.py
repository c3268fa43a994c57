"""linear and logits by a kernel that fills memory which it is given."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearWeight


class Filling(ABC):
    """What kernels of all layouts have in common; a subclass multiplies."""

    @abstractmethod
    def _multiply(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, y_TN: Tensor) -> None:
        """Fill `y_TN`, float32 or of x_TD's dtype, which may be the residual."""

    def linear(
        self,
        x_TD: Tensor,
        weight: LinearWeight,
        residual_TN: Tensor | None = None,
    ) -> Tensor:
        """See `tradewind.kernels.linear.Linear`. The residual is overwritten."""
        y_TN = residual_TN
        if y_TN is None:
            y_TN = torch.empty((len(x_TD), weight.out_features), dtype=x_TD.dtype)
        self._multiply(x_TD, weight, residual_TN, y_TN)
        return y_TN

    def logits(self, x_RD: Tensor, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        out_RV = torch.empty((len(x_RD), weight.out_features), dtype=torch.float32)
        self._multiply(x_RD, weight, None, out_RV)
        return out_RV

    def fill_logits(self, x_RD: Tensor, weight: LinearWeight, out_RV: Tensor) -> None:
        """See `tradewind.kernels.linear.FillLogits`."""
        assert out_RV.dtype == torch.float32
        self._multiply(x_RD, weight, None, out_RV)
