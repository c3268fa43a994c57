"""linear with a checkpoint's own 8-bit weights, beside those that it has in full: each by the op of its layout."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight, fp8, fp8_blocks, reference


class StoredLinear:
    """`by_layout`: the ops of dense weights and of 8-bit floats. What is packed here stays in full."""

    def __init__(self, by_layout: Mapping[str, LinearKernel]) -> None:
        self._by_layout = by_layout

    def linear(self, x: Any, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        return self._by_layout[weight.layout].linear(x, weight, residual_TN)

    def logits(self, x: Any, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        kernel = self._by_layout[weight.layout]
        return kernel.linear(x, weight).float() if kernel.logits is None else kernel.logits(x, weight)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(reference.pack, self.linear, logits=self.logits)


def in_torch() -> LinearKernel:
    """The truth."""
    dense = LinearKernel(reference.pack, reference.linear)
    by_layout = {reference.LAYOUT: dense, fp8.LAYOUT: fp8.kernel(), fp8_blocks.LAYOUT: fp8_blocks.kernel()}
    return StoredLinear(by_layout).kernel()
