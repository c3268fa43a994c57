"""linear_add_norm: a product, the residual sum and the norm after it in one kernel, for rows of 8 bits.

A norm needs the whole row twice: for its root, and to be quantised, for its largest number. The root is a factor of the
row and can be left to the product after the norm. And how large a number can become is known before: by the lengths of
the row that is multiplied, of the weights, and of the residual sum so far. What the numbers are is much less than that,
which costs 8-bit floats hardly any precision: they have as many bits down to 2^-14.8 of their largest.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Device
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.linear import LinearWeight, fp8
from tradewind.kernels.quantised_rows import FP8_MAX, MeasuredRows, NormedRows

LEAST_ROWS = 3
"""Fewer have kernels that do not quantise them (chained_linear/diagonal.py)."""

UNITS = 1048576.0
"""A row's sum of squares is counted in units of (what no number of it exceeds / 2^20)^2: it has less than 2^63."""

LEAST = 1e-20
"""What no number exceeds is no smaller, so that all can be divided by it, with any gain."""

ROUNDED = 1.01
"""Times as large as the sum of its parts a number may be once it is rounded to the activations' type."""

_ROUNDED_TO_8_BITS = 1.15  # times as long as it was measured a row may be
_LEAST_GAIN = 1e-6


@dataclass(frozen=True, slots=True)
class Bounded:
    """A norm, and what is known of the sum before it, whatever the rows.

    gain: no number of the norm's is larger. No number of the product is larger than `of_rows` times the length of its
    row, and `rise`.
    """

    norm: Norm
    gain: float
    of_rows: float = 0.0
    rise: float = 0.0

    @classmethod
    def of(cls, norm: Norm, weight: LinearWeight | None = None) -> "Bounded":
        """Of the norm after this product (None: after none), by the inequality of Cauchy and Schwarz."""
        gain = max(float(norm.weight_D.float().abs().max()), _LEAST_GAIN)
        if weight is None:
            return cls(norm, gain)
        rise = 0.0 if weight.bias_N is None else float(weight.bias_N.float().abs().max())
        return cls(norm, gain, _ROUNDED_TO_8_BITS * fp8.longest(weight), rise)

    @property
    def unit(self) -> float:
        """See NormedRows."""
        return FP8_MAX / self.gain / UNITS


class LinearAddNorm(Protocol):
    """`linear_add_norm(rows, weight, residual_TD, before, bounded) -> normed`, for a few rows.

    residual_TD, contiguous, becomes the sum of itself and rows @ W.T + bias, rounded once, and what comes out is the
    norm of that. `before`: the norm of residual_TD as it comes, and all that is known of its rows' lengths.
    """

    def takes(self, tokens: int, weights: Iterable[LinearWeight]) -> bool:
        """Whether it is made for a layer of these weights (in the order in which they run), of so many rows."""
        ...

    def begin(self, x_TD: Tensor, bounded: Bounded, turns: int) -> NormedRows:
        """The norm of the first residual sum of a step that has so many."""
        ...

    def __call__(
        self, rows: MeasuredRows, weight: LinearWeight, residual_TD: Tensor, before: NormedRows, bounded: Bounded
    ) -> NormedRows: ...


def choose(device: Device, dtype: torch.dtype, *, exact: bool = False) -> LinearAddNorm | None:
    """The implementation, where one is faster than its parts: on a GPU, for products whose order may depend on T. For
    weights whose `linear` takes rows of 8 bits.
    """
    from tradewind.kernels import gpu

    if isinstance(device, gpu.AbsentGpu) or not gpu.may_fuse(device, dtype, exact=exact):
        return None
    from tradewind.kernels.linear.tactics import Tactics
    from tradewind.kernels.linear_add_norm.triton import TritonLinearAddNorm

    chip = gpu.Chip.of(device)
    return TritonLinearAddNorm(chip, Tactics.on(chip))
