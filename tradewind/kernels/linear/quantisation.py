"""How the weights of linear layers are quantised, and the torch version of it: the truth.

A weight is W = scale * q, q whole. With 8 bits each output has one scale; with 4 bits each group of inputs of an output
has one. The rows of x are quantised when they are multiplied, each by itself: 8 bits, one scale a row.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight, reference

GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Quantisation:
    """`bits`: 8 or 4, or 12 without loss (lossless.py). `group`: how many inputs share a scale, one of GROUPS; 0 (all
    of them) with 8 bits or 12.

    `is_float`: the 8 bits are a float (fp8.py), not a whole number; a group is one of outputs too (fp8_blocks.py).
    `stored`: the checkpoint's own: weights that it has in full stay so.
    """

    bits: int
    group: int
    is_float: bool = False
    stored: bool = False

    @classmethod
    def named(cls, name: str) -> "Quantisation | None":
        """By its name in the settings.

        none, lossless, fp8, fp8-blocks, int8, int4 (groups of 32), int4-g64 or int4-g128.
        """
        if name == "none":
            return None
        if name == "lossless":
            return cls(12, 0)
        if name == "fp8":
            return cls(8, 0, is_float=True)
        if name == "fp8-blocks":
            return cls(8, 128, is_float=True)
        if name == "int8":
            return cls(8, 0)
        kind, _, group = name.partition("-g")
        inputs = int(group or 32)
        assert kind == "int4", name
        assert inputs in GROUPS, name
        return cls(4, inputs)

    @property
    def bits_per_weight(self) -> float:
        """Scales included, but for the few of whole columns."""
        return self.bits + (16 / self.group if self.group and not self.is_float else 0)

    @property
    def is_lossless(self) -> bool:
        """Whether the weights' numbers stay what they were."""
        return self.bits == 12

    @property
    def quantises_rows(self) -> bool:
        """Whether norms and gates give `linear` rows of 8 bits."""
        return self.is_float and not self.group and not self.stored

    @property
    def layout(self) -> str:
        """A name that tells this quantisation from others."""
        if self.is_lossless:
            return "lossless"
        if self.is_float:
            return "fp8-blocks" if self.group else "fp8"
        return "int8" if self.bits == 8 else f"int4-g{self.group}"


class TorchQuantised:
    """pack and linear in plain torch: `data` is int8 [N, K], a number a byte; `extras` the scales [N, groups]."""

    def __init__(self, quantisation: Quantisation) -> None:
        self._quantisation = quantisation

    def pack(self, weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
        """See `tradewind.kernels.linear.Pack`."""
        n, k = weight_ND.shape
        group = self._quantisation.group or k
        groups = -(-k // group)
        largest = 127 if self._quantisation.bits == 8 else 7
        q_NK = torch.empty((n, k), dtype=torch.int8, device=weight_ND.device)
        scales_NG = torch.empty((n, groups), dtype=torch.float32, device=weight_ND.device)
        for g in range(groups):
            part = weight_ND[:, g * group : (g + 1) * group].float()
            scales_NG[:, g] = part.abs().amax(dim=1) / largest
            steps = scales_NG[:, g : g + 1].clamp(min=torch.finfo(torch.float32).tiny)
            q_NK[:, g * group : (g + 1) * group] = (part / steps).round().to(torch.int8)
        return LinearWeight(q_NK, bias_N, n, k, f"torch-{self._quantisation.layout}", (scales_NG,))

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        numbers_NK = self._dense(weight.data, weight.extras[0])
        return reference.product(quantise_rows(x_TD), numbers_NK, weight, residual_TN).to(x_TD.dtype)

    def _dense(self, q_NK: Tensor, scales_NG: Tensor) -> Tensor:
        group = self._quantisation.group or q_NK.shape[1]
        return q_NK.float() * scales_NG.repeat_interleave(group, dim=1)[:, : q_NK.shape[1]]

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it. There is no packed embedding: it stays as it is."""
        return LinearKernel(self.pack, self.linear)


def quantise_rows(x_TD: Tensor) -> Tensor:
    """x as the quantised product sees it: 8 bits and one scale a row. float32."""
    largest_T1 = x_TD.float().abs().amax(dim=1, keepdim=True)
    inverse_T1 = torch.where(largest_T1 > 0, torch.full_like(largest_T1, 127) / largest_T1, 0)
    return (x_TD.float() * inverse_T1).round() * (largest_T1 / 127)
