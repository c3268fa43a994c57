"""host_copy: a few bytes from the host's memory to the device's, in the order of the device's work.

The copy engines of a GPU are made for large copies: a kernel before and one after a small one wait for microseconds.
"""

from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick


class HostCopy(Protocol):
    """`host_copy(source_W, into_W)`, of W int64 words, one after the other: pinned ones, to the device.

    The host must leave its own as they are until the device has got that far.
    """

    def __call__(self, source_W: Tensor, into_W: Tensor) -> None: ...


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
