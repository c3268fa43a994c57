"""Between the host's arrays and the device's tensors, without waiting."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """On the CPU the array's own memory; else a copy that is under way when this returns."""
    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def numbers(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A few numbers, or rows of them, as a tensor there; unlike `torch.tensor`, without waiting for the device."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """On the CPU the tensor itself; else a copy that may be read once the device has got that far."""
    if tensor.device.type == "cpu":
        return tensor
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
