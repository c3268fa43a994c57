"""From named tensors to layers: one at a time, cast and merged on the way."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.memory import empty
from tradewind.kernels.ops import Ops
from tradewind.layers.linear import Linear
from tradewind.models.declaration import Declaration, LinearSpec, TensorSpec


class WeightSource(Protocol):
    """Where weights come from."""

    def read(self, tensor: TensorSpec, into: Tensor) -> None:
        """Fill `into` (contiguous, of the tensor's shape, any float dtype and device), casting if need be."""
        ...


class Loader:
    """Reads a declaration's tensors into new memory of one dtype on one device, and counts the bytes."""

    def __init__(
        self,
        source: WeightSource,
        declaration: Declaration,
        dtype: torch.dtype,
        device: torch.device,
        ops: Ops,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.ops = ops
        self.device = device
        self._source = source
        self._dtype = dtype
        self._progress = progress
        self._total_bytes = sum(tensor.numel for tensor in declaration.tensors()) * dtype.itemsize
        self._done_bytes = 0

    def tensor(self, spec: TensorSpec) -> Tensor:
        """One tensor as it is."""
        return self._stack((spec,))

    def linear(self, spec: LinearSpec) -> Linear:
        """A linear layer from one or several weights; only the packed form remains."""
        bias_N = self._stack(spec.biases) if spec.biases else None
        return Linear.build(self._stack(spec.weights), bias_N, self.ops)

    def _stack(self, specs: tuple[TensorSpec, ...]) -> Tensor:
        """The tensors stacked along their first dimension."""
        rows = sum(spec.shape[0] for spec in specs)
        stacked = empty((rows, *specs[0].shape[1:]), self._dtype, self.device)
        first = 0
        for spec in specs:
            last = first + spec.shape[0]
            self._source.read(spec, stacked[first:last])
            first = last
            self._done_bytes += spec.numel * self._dtype.itemsize
            if self._progress:
                self._progress(self._done_bytes, self._total_bytes)
        return stacked
