"""From named tensors to layers: one at a time, cast and merged on the way."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearWeight, fp8, fp8_blocks
from tradewind.kernels.memory import empty
from tradewind.kernels.ops import Ops
from tradewind.layers.linear import Linear
from tradewind.models.declaration import Declaration, LinearSpec, TensorSpec


class WeightSource(Protocol):
    """Where weights come from."""

    def read(self, tensor: TensorSpec, into: Tensor) -> None:
        """Fill `into` (contiguous, of the tensor's shape, any float dtype and device), casting if need be."""
        ...

    def read_quantised(self, tensor: TensorSpec) -> tuple[Tensor, Tensor] | None:
        """A weight that is kept in 8-bit floats, as it is: float8_e4m3fn [N, D], and its scales in float32.

        They are [N], or a matrix of those of blocks. None: it is kept in full.
        """
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
        self._spare: Tensor | None = None  # where the last packed weight lay unpacked

    def tensor(self, spec: TensorSpec) -> Tensor:
        """One tensor as it is."""
        return self._stack((spec,))

    def linear(self, spec: LinearSpec) -> Linear:
        """A linear layer from one or several weights; only the packed form remains."""
        bias_N = self._stack(spec.biases) if spec.biases else None
        if self.ops.takes_stored:
            kept = self._as_kept(spec, bias_N)
            if kept is not None:
                return kept
        memory = self._memory(sum(weight.numel for weight in spec.weights), self._spare)
        linear = Linear.build(self._stack(spec.weights, memory), bias_N, self.ops)
        self._spare = None if _lies_in(linear, memory) else memory
        return linear

    def _as_kept(self, spec: LinearSpec, bias_N: Tensor | None) -> Linear | None:
        """The layer in the checkpoint's own 8-bit floats. None where parts are in full, or their blocks do not join."""
        parts = [self._source.read_quantised(weight) for weight in spec.weights]
        if any(part is None for part in parts):
            return None
        values, scales = zip(*(part for part in parts if part is not None), strict=True)
        outputs, inputs = sum(weight.shape[0] for weight in spec.weights), spec.weights[0].shape[1]
        has_blocks = scales[0].ndim == 2
        if has_blocks:
            sizes = [weight.shape[0] for weight in spec.weights[:-1]]
            blocks = (-(-outputs // fp8_blocks.BLOCK), -(-inputs // fp8_blocks.BLOCK))
            if any(size % fp8_blocks.BLOCK for size in sizes) or torch.cat(scales).shape != blocks:
                return None
        layout = fp8_blocks.LAYOUT if has_blocks else fp8.LAYOUT
        data_ND = torch.cat([part.view(torch.uint8) for part in values]).view(values[0].dtype).to(self.device)
        extras = (torch.cat(scales).to(self.device),)
        self._count(outputs * inputs)
        return Linear(LinearWeight(data_ND, bias_N, outputs, inputs, layout, extras), self.ops.linear)

    def _count(self, numbers: int) -> None:
        self._done_bytes += numbers * self._dtype.itemsize
        if self._progress:
            self._progress(self._done_bytes, self._total_bytes)

    def _memory(self, numel: int, spare: Tensor | None = None) -> Tensor:
        """Room for so many numbers: the spare, if it suffices, or new."""
        return spare if spare is not None and len(spare) >= numel else empty((numel,), self._dtype, self.device)

    def _stack(self, specs: tuple[TensorSpec, ...], memory: Tensor | None = None) -> Tensor:
        """The tensors stacked along their first dimension, at the beginning of `memory`, or in new."""
        numel = sum(spec.numel for spec in specs)
        memory = self._memory(numel) if memory is None else memory
        stacked = memory[:numel].view(-1, *specs[0].shape[1:])
        first = 0
        for spec in specs:
            last = first + spec.shape[0]
            self._source.read(spec, stacked[first:last])
            first = last
            self._count(spec.numel)
        return stacked


def _lies_in(linear: Linear, memory: Tensor) -> bool:
    """Whether the weight stayed where it was read to."""
    start = memory.untyped_storage().data_ptr()
    packed = (linear.weight.data, *linear.weight.extras)
    return any(tensor.untyped_storage().data_ptr() == start for tensor in packed)
