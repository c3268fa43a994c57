"""Root-mean-square norm, fused with the residual sum before it."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels.add_rms_norm import AddRmsNorm, QuantisingAddRmsNorm
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.quantised_rows import Activations


@dataclass(frozen=True)
class RmsNorm:
    """The norm of a residual stream."""

    weight_D: Tensor
    eps: float
    run: AddRmsNorm | QuantisingAddRmsNorm

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Activations, Tensor]:
        """(normed, new_residual_TD); both arguments are given up by the caller."""
        return self.run(x_TD, residual_TD, self.weight_D, self.eps)

    @property
    def as_part(self) -> Norm:
        """As a part of a fused product."""
        return Norm(self.weight_D, self.eps)

    @property
    def nbytes(self) -> int:
        return self.weight_D.nbytes
