"""silu_mul: the gate of a SwiGLU feed-forward layer (https://arxiv.org/abs/2002.05202)."""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick
from tradewind.kernels.quantised_rows import QuantisedRows

if TYPE_CHECKING:
    from tradewind.kernels.gpu import Chip
    from tradewind.kernels.silu_mul.triton import TritonSiluMul


class SiluMul(Protocol):
    """`silu_mul(gate_up_T2F) -> act_TF`: silu(gate) * up in float32, rounded once; gate is the first half of a row."""

    def __call__(self, gate_up_T2F: Tensor) -> Tensor: ...


class QuantisingSiluMul(Protocol):
    """The same, but that the rows come out in 8 bits, quantised from float32."""

    def __call__(self, gate_up_T2F: Tensor) -> QuantisedRows: ...


def choose(device: Device, dtype: torch.dtype, prefer: str | None = None, level: str | None = None) -> Choice[SiluMul]:
    """The implementation for activations of `dtype` on `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import gpu, native
    from tradewind.kernels.silu_mul import reference
    from tradewind.kernels.silu_mul.cpu import NativeSiluMul

    library = native.load(level)
    candidates: list[Candidate[SiluMul]] = [
        *gpu.candidates(device, dtype, lambda chip: _triton(chip).plain, reference.silu_mul),
        Candidate("native", NativeSiluMul(library), library.unavailable, f"C++, {library.level}"),
        Candidate("reference", reference.silu_mul),
    ]
    return pick(candidates, device, dtype, prefer)


def choose_quantising(device: Device, dtype: torch.dtype, prefer: str | None = None) -> Choice[QuantisingSiluMul]:
    """The one that quantises; `prefer` as in `choose`."""
    from tradewind.kernels import gpu
    from tradewind.kernels.silu_mul import reference

    candidates: list[Candidate[QuantisingSiluMul]] = [
        *gpu.candidates(device, dtype, lambda chip: _triton(chip).quantising, reference.quantising_silu_mul),
        Candidate("reference", reference.quantising_silu_mul),
    ]
    return pick(candidates, device, dtype, prefer)


def _triton(chip: "Chip") -> "TritonSiluMul":
    from tradewind.kernels.silu_mul.triton import TritonSiluMul

    return TritonSiluMul(chip)
