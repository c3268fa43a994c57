"""linear by torch's own matrix product, in the activations' dtype."""

from torch import Tensor
from torch.nn import functional

from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.reference import pack

__all__ = ["linear", "pack"]


def linear(x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """See `tradewind.kernels.linear.Linear`. The residual is added after a first rounding."""
    y_TN = functional.linear(x_TD, weight.data, weight.bias_N)
    return y_TN if residual_TN is None else y_TN.add_(residual_TN)
