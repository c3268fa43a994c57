"""add_rms_norm in plain torch: the truth."""

import torch
from torch import Tensor

from tradewind.kernels.quantised_rows import QuantisedRows, quantise_rows


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `tradewind.kernels.add_rms_norm.AddRmsNorm`."""
    residual_TD = x_TD.contiguous() if residual_TD is None else x_TD + residual_TD
    return rms_norm(residual_TD, weight_D, eps), residual_TD


def quantising_add_rms_norm(
    x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float
) -> tuple[QuantisedRows, Tensor]:
    """See `tradewind.kernels.add_rms_norm.QuantisingAddRmsNorm`."""
    total_TD = x_TD.contiguous() if residual_TD is None else x_TD + residual_TD
    return quantise_rows(_wide_norm(total_TD, weight_D, eps), x_TD.dtype), total_TD


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm over the last dimension, in float32, rounded once to x's dtype."""
    return _wide_norm(x, weight, eps).to(x.dtype)


def _wide_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return wide * scale * weight.float()
