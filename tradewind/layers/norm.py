"""Root-mean-square norm, fused with the residual sum before it."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels.add_rms_norm import AddRmsNorm


@dataclass(frozen=True)
class RmsNorm:
    """The norm of a residual stream."""

    weight_D: Tensor
    eps: float
    run: AddRmsNorm

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        """(normed_TD, new_residual_TD); both arguments are given up by the caller."""
        return self.run(x_TD, residual_TD, self.weight_D, self.eps)

    @property
    def nbytes(self) -> int:
        return self.weight_D.nbytes
