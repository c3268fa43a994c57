"""gated_linear: a product of gates and of what they are for, and the gate, for steps of some tokens.

Two kernels that would follow each other are one. Where the rows are quantised for the next product, what is left to do
is less than a quantising gate would have, which for each row looks at all numbers before it can write the first.
"""

from typing import Protocol

import torch

from tradewind.kernels.choice import Device
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.quantised_rows import Activations


class GatedLinear(Protocol):
    """`gated_linear(x, weight) -> act_TF`: silu(first half of y) * second half, with y = x @ W.T + bias in float32.

    Rows that come quantised (QuantisedRows) leave so, after they were rounded to the dtype of the activations.
    """

    def takes(self, x: Activations, weight: LinearWeight) -> bool:
        """Whether it is made for so many rows of this kind, and a weight of such a layout and size."""
        ...

    def __call__(self, x: Activations, weight: LinearWeight) -> Activations: ...


def choose(device: Device, dtype: torch.dtype, *, exact: bool = False) -> GatedLinear | None:
    """The implementation, where one is faster than its parts: on a GPU, for products whose order may depend on T."""
    from tradewind.kernels import gpu

    if not gpu.may_fuse(device, dtype, exact=exact) or isinstance(device, gpu.AbsentGpu):
        return None
    from tradewind.kernels.gated_linear.triton import TritonGatedLinear
    from tradewind.kernels.linear.tactics import Tactics

    chip = gpu.Chip.of(device)
    return TritonGatedLinear(chip, Tactics.on(chip))
