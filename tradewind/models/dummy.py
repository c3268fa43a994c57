"""Random weights, made fast: for load tests and benchmarks of a model's shape without its checkpoint."""

import torch
from torch import Tensor

from tradewind.models.declaration import Declaration, TensorSpec

_BLOCK = 1 << 20  # random numbers drawn; larger tensors repeat them


class DummyWeights:
    """The same numbers for the same seed and shapes. Norms are 1, biases 0.

    Matrices are normal with a standard deviation of 1 / sqrt(inputs), so that activations keep their scale and logits
    are finite. They are tiled from one random block whose length is prime, so that rows differ.
    """

    def __init__(self, declaration: Declaration, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        largest = max(tensor.numel for tensor in declaration.tensors())
        self._block = torch.randn(_largest_prime(min(_BLOCK, largest)), generator=generator)
        self._blocks: dict[tuple[torch.dtype, torch.device, int], Tensor] = {}
        self._offset = 0

    def read(self, tensor: TensorSpec, into: Tensor) -> None:
        """See tradewind.models.loader.WeightSource."""
        if len(tensor.shape) == 1:
            into.fill_(0.0 if tensor.name.endswith(".bias") else 1.0)
            return
        block = self._scaled(into.dtype, into.device, tensor.shape[-1])
        flat = into.view(-1)
        # Each tensor starts elsewhere in the block, or q and k of a layer would be the same.
        self._offset = (self._offset + 7919) % len(block)
        done = min(len(flat), len(block) - self._offset)
        flat[:done] = block[self._offset : self._offset + done]
        while done < len(flat):
            step = min(len(block), len(flat) - done)
            flat[done : done + step] = block[:step]
            done += step

    def read_quantised(self, tensor: TensorSpec) -> None:
        """None is."""

    def _scaled(self, dtype: torch.dtype, device: torch.device, inputs: int) -> Tensor:
        """The block for matrices with this many inputs (few kinds, so each is kept)."""
        key = (dtype, device, inputs)
        if key not in self._blocks:
            self._blocks[key] = (self._block * inputs**-0.5).to(device=device, dtype=dtype)
        return self._blocks[key]


def _largest_prime(limit: int) -> int:
    """The largest prime number up to `limit` (1 if there is none)."""
    for number in range(limit, 1, -1):
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            return number
    return 1
