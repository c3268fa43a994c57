"""add_rms_norm: the residual sum, and its root-mean-square norm (https://arxiv.org/abs/1910.07467)."""

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick
from tradewind.kernels.quantised_rows import QuantisedRows

if TYPE_CHECKING:
    from tradewind.kernels.add_rms_norm.triton import TritonAddRmsNorm
    from tradewind.kernels.gpu import Chip


class AddRmsNorm(Protocol):
    """`add_rms_norm(x_TD, residual_TD | None, weight_D, eps) -> (normed_TD, new_residual_TD)`.

    new_residual = x + residual, rounded to the dtype (x itself if residual is None); normed = new_residual /
    sqrt(mean(new_residual^2) + eps) * weight, from the rounded sum, in float32, rounded once. weight_D has the dtype of
    x. x_TD: rows may be strided. The caller gives up x and residual: new_residual may be written into either, and be x.
    """

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]: ...


class QuantisingAddRmsNorm(Protocol):
    """The same, but that the normed rows come out in 8 bits, quantised from float32: `(normed, new_residual_TD)`."""

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float
    ) -> tuple[QuantisedRows, Tensor]: ...


def choose(
    device: Device, dtype: torch.dtype, prefer: str | None = None, level: str | None = None
) -> Choice[AddRmsNorm]:
    """The implementation for activations of `dtype` on `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import gpu, native
    from tradewind.kernels.add_rms_norm import reference
    from tradewind.kernels.add_rms_norm.cpu import NativeAddRmsNorm

    library = native.load(level)
    candidates: list[Candidate[AddRmsNorm]] = [
        *gpu.candidates(device, dtype, lambda chip: _triton(chip).plain, reference.add_rms_norm),
        Candidate("native", NativeAddRmsNorm(library), library.unavailable, f"C++, {library.level}"),
        Candidate("reference", reference.add_rms_norm),
    ]
    return pick(candidates, device, dtype, prefer)


def choose_quantising(device: Device, dtype: torch.dtype, prefer: str | None = None) -> Choice[QuantisingAddRmsNorm]:
    """The one that quantises; `prefer` as in `choose`."""
    from tradewind.kernels import gpu
    from tradewind.kernels.add_rms_norm import reference

    candidates: list[Candidate[QuantisingAddRmsNorm]] = [
        *gpu.candidates(device, dtype, lambda chip: _triton(chip).quantising, reference.quantising_add_rms_norm),
        Candidate("reference", reference.quantising_add_rms_norm),
    ]
    return pick(candidates, device, dtype, prefer)


def _triton(chip: "Chip") -> "TritonAddRmsNorm":
    from tradewind.kernels.add_rms_norm.triton import TritonAddRmsNorm

    return TritonAddRmsNorm(chip)
