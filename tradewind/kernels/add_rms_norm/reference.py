"""add_rms_norm in plain torch: the truth."""

import torch
from torch import Tensor


def add_rms_norm(x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `tradewind.kernels.add_rms_norm.AddRmsNorm`."""
    residual_TD = x_TD.contiguous() if residual_TD is None else x_TD + residual_TD
    return rms_norm(residual_TD, weight_D, eps), residual_TD


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm over the last dimension, in float32, rounded once to x's dtype."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)
