"""Token embedding."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels import embedding as op
from tradewind.kernels.linear import LinearWeight, PackedEmbedding


@dataclass(frozen=True)
class Embedding:
    """ids_T -> x_TD."""

    weight_VD: Tensor
    run: op.Embedding

    def __call__(self, ids_T: Tensor) -> Tensor:
        """A new tensor with one row of the table for each id."""
        return self.run(ids_T, self.weight_VD)

    @property
    def nbytes(self) -> int:
        return self.weight_VD.nbytes


@dataclass(frozen=True)
class TiedEmbedding:
    """ids_T -> x_TD, from the output layer's packed weight: the model keeps no second copy."""

    weight: LinearWeight
    run: PackedEmbedding

    def __call__(self, ids_T: Tensor) -> Tensor:
        """A new tensor with one row of the table for each id."""
        return self.run(ids_T, self.weight)

    @property
    def nbytes(self) -> int:
        """None of its own: the weight is the output layer's."""
        return 0
