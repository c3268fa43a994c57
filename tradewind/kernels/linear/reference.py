"""linear in plain torch: the truth."""

from torch import Tensor

from tradewind.kernels.linear import LinearWeight

LAYOUT = "dense"


def pack(weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
    """Keep the weight as it is: the result shares its storage."""
    out_features, in_features = weight_ND.shape
    return LinearWeight(weight_ND, bias_N, out_features, in_features)


def linear(x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """See `tradewind.kernels.linear.Linear`."""
    return product(x_TD.float(), weight.data.float(), weight, residual_TN).to(x_TD.dtype)


def product(x_TD: Tensor, numbers_ND: Tensor, weight: LinearWeight, residual_TN: Tensor | None) -> Tensor:
    """x @ W.T + bias + residual of a weight that stands for these numbers. x_TD, numbers_ND, the result: float32."""
    y_TN = x_TD @ numbers_ND.T
    if weight.bias_N is not None:
        y_TN += weight.bias_N.float()
    if residual_TN is not None:
        y_TN += residual_TN.float()
    return y_TN
