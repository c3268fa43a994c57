"""chained_linear: products that prepare their rows for the next product, so that a layer is six or seven kernels.

What comes before a product (norm, gate, quantisation) is done at the end of the product before it, by the program that
has the numbers in registers. So it is for weights whose scales are those of some inputs only, and rows that are left as
they are, or quantised by as many columns as a program owns: no program knows the largest number of a whole row.

Legend beyond the package's: G groups of GROUP columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Device
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.linear import LinearWeight

if TYPE_CHECKING:
    from tradewind.kernels.linear.quantisation import Quantisation

GROUP = 128


@dataclass(frozen=True)
class PreparedRows:
    """Rows as the next product takes them: x = values * scales / sqrt(sum of squares / D + eps).

    values_TD: of the activations' type; or float8_e4m3fn, and then each GROUP columns of a row have a scale, with which
    the largest of them became 448. So the norm's gain is in the values already, and its root, which takes the whole
    row, is left to who multiplies: squares_GT are sums of the squares that it is taken of, of any groups of columns.
    scales_GT, squares_GT: float32. None: rows that are not quantised, or not normed. All are contiguous.
    """

    values_TD: Tensor
    scales_GT: Tensor | None
    squares_GT: Tensor | None
    eps: float
    dtype: torch.dtype

    def dense(self) -> Tensor:
        """The numbers, float32 [T, D]."""
        x_TD = self.values_TD.float()
        if self.scales_GT is not None:
            x_TD = x_TD * self.scales_GT.t().repeat_interleave(GROUP, 1)
        if self.squares_GT is not None:
            x_TD = x_TD / (self.squares_GT.sum(0) / x_TD.shape[1] + self.eps).sqrt().unsqueeze(1)
        return x_TD


class ChainedLinear(Protocol):
    """Products of a few rows with weights that `takes`; all sums and what is between them in float32.

    Rows are quantised if the weights are blocks of 8-bit floats. x_TD, residual_TN: contiguous. `next_weight`: that of
    the product after this one, which may be asked for before its turn; it changes no number.
    """

    def takes(self, weight: LinearWeight) -> bool:
        """Whether it is in a layout for which this is, and its sizes are multiples of what programs own."""
        ...

    def prepare(self, x_TD: Tensor, norm: Norm | None = None) -> PreparedRows:
        """norm(x), for the next product."""
        ...

    def linear(self, rows: PreparedRows, weight: LinearWeight) -> Tensor:
        """y_TN = x @ W.T + bias, rounded once."""
        ...

    def gated(self, rows: PreparedRows, weight: LinearWeight, next_weight: LinearWeight | None = None) -> PreparedRows:
        """silu(first half of y) * second half, quantised from float32."""
        ...

    def add(
        self,
        rows: PreparedRows,
        weight: LinearWeight,
        residual_TN: Tensor,
        norm: Norm,
        next_weight: LinearWeight | None = None,
    ) -> PreparedRows:
        """norm(y + residual). The sum, rounded, is written over residual_TN; the norm is that of the rounded sum."""
        ...

    @property
    def steps(self) -> range:
        """Of how many tokens a step is faster so than by fused_linear, or op by op."""
        ...


STEPS = range(2, 65)
"""Of how many tokens a step is faster so than by fused_linear, or op by op; measured on an H100."""


def steps_of(quantisation: "Quantisation") -> range:
    """Those; with 4-bit weights steps of one token, too; with one scale an output of one or two alone."""
    if not quantisation.group:
        return range(1, 3)
    return STEPS if quantisation.is_float else range(1, STEPS.stop)


def choose(
    device: Device, dtype: torch.dtype, quantisation: "Quantisation | None", *, exact: bool = False
) -> ChainedLinear | None:
    """The implementation, where one is faster than its parts: on a GPU, for products whose order may depend on T."""
    from tradewind.kernels import gpu

    if isinstance(device, gpu.AbsentGpu) or not is_faster(device, dtype, quantisation, exact=exact):
        return None
    assert isinstance(device, torch.device)
    assert quantisation is not None
    from tradewind.kernels.chained_linear.triton import TritonChainedLinear
    from tradewind.kernels.linear.tactics import Tactics

    chip = gpu.Chip.of(device)
    tactics, steps = Tactics.on(chip), steps_of(quantisation)
    quantises = quantisation.is_float and bool(quantisation.group)
    return TritonChainedLinear(device, chip, tactics, quantises=quantises, steps=steps)


def is_faster(device: Device, dtype: torch.dtype, quantisation: "Quantisation | None", *, exact: bool = False) -> bool:
    """Whether there is an implementation that is faster than its parts.

    Reading weights in full, or with one scale for each output, takes long enough to hide the kernels between. But with
    the latter one or two rows have a faster kernel here (diagonal.py). What is prepared lacks its norm's root: so it
    may be too large for float16.
    """
    from tradewind.kernels import gpu

    if quantisation is None or dtype != torch.bfloat16 or not gpu.may_fuse(device, dtype, exact=exact):
        return False
    return bool(quantisation.group) or quantisation.layout == "fp8"
