"""host_copy: a few bytes from the host's memory to the device's, in the order of the device's work.

The copy engines of a GPU are made for large copies: a kernel before and one after a small one wait for microseconds.
"""

from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick


class HostCopy(Protocol):
    """`host_copy(ring_UW, turn_1, into_W)`: the row of a ring of pinned int64 words whose turn it is, to the device.

    `turn_1`: int32, on the device, where the turn then passes to the next row. So what is recorded once finds another
    row each time it is replayed. The host must leave a row as it is until the device has got that far.
    """

    def __call__(self, ring_UW: Tensor, turn_1: Tensor, into_W: Tensor) -> None: ...


def choose(device: Device, prefer: str | None = None) -> Choice[HostCopy]:
    """The implementation for `device`; `prefer` as in `tradewind.kernels.choice.pick`."""
    from tradewind.kernels import gpu
    from tradewind.kernels.host_copy import reference

    def triton(chip: gpu.Chip) -> HostCopy:
        from tradewind.kernels.host_copy.triton import TritonHostCopy

        return TritonHostCopy(chip)

    candidates = [
        *gpu.candidates(device, torch.float32, triton, reference.host_copy, about=", no copy engine to wait for"),
        Candidate[HostCopy]("reference", reference.host_copy, about="by torch"),
    ]
    return pick(candidates, device, torch.float32, prefer)
