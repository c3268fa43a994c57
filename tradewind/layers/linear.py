"""A linear layer: a packed weight and the op that reads it."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels import linear as op
from tradewind.kernels.ops import Ops
from tradewind.kernels.quantised_rows import Activations


@dataclass(frozen=True)
class Linear:
    """y = x @ W.T (+ bias) (+ residual)."""

    weight: op.LinearWeight
    run: op.Linear

    @classmethod
    def build(cls, weight_ND: Tensor, bias_N: Tensor | None, ops: Ops) -> "Linear":
        """Pack a weight. The caller drops weight_ND afterwards, unless it is shared on purpose (tied embeddings)."""
        return cls(ops.pack(weight_ND, bias_N), ops.linear)

    def __call__(self, x: Activations, residual_TN: Tensor | None = None) -> Tensor:
        """x_TD -> y_TN. The residual is given up by the caller."""
        return self.run(x, self.weight, residual_TN)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes
