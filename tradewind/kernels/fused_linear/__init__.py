"""fused_linear: a norm, a product and a gate in one, for the few rows of a decode: a layer is five kernels then.

x -> [norm] -> linear -> [silu_mul] -> [+ residual]
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Device
from tradewind.kernels.linear import LinearWeight


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm of the rows that go in."""

    weight_D: Tensor
    eps: float


class FusedLinear(Protocol):
    """`fused_linear(x_TD, weight, norm=None, gated=False, residual_TN=None) -> y_TN`.

    y = linear(norm(x)), plus the residual if there is one; with `gated`, y = silu(first half) * second half, half as
    wide as the weight. The weight is in any layout that a GPU has. Nothing is rounded between the parts, except that
    the rows may be rounded to the dtype of x before they are multiplied: for no weight are they quantised. The residual
    is left as it is; x may have up to MOST_ROWS, and with 8-bit floats that have one scale an output just one.
    """

    def __call__(
        self,
        x_TD: Tensor,
        weight: LinearWeight,
        norm: Norm | None = None,
        gated: bool = False,
        residual_TN: Tensor | None = None,
    ) -> Tensor: ...


MOST_ROWS = 16


def choose(device: Device, dtype: torch.dtype, *, exact: bool = False) -> FusedLinear | None:
    """The implementation, where one is faster than its parts: on a GPU, for products whose order may depend on T."""
    from tradewind.kernels import gpu

    if not gpu.may_fuse(device, dtype, exact=exact) or isinstance(device, gpu.AbsentGpu):
        return None
    from tradewind.kernels.fused_linear.triton import TritonFusedLinear
    from tradewind.kernels.linear.tactics import Tactics

    chip = gpu.Chip.of(device)
    return TritonFusedLinear(chip, Tactics.on(chip))
