"""embedding: one row of the table for each token."""

from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick


class Embedding(Protocol):
    """`embedding(ids_T, weight_VD) -> x_TD`.

    ids_T: int32 or int64, contiguous, each in [0, V). weight_VD: contiguous. The result is a new tensor.
    """

    def __call__(self, ids_T: Tensor, weight_VD: Tensor) -> Tensor: ...


def choose(
    device: Device, dtype: torch.dtype, prefer: str | None = None, level: str | None = None
) -> Choice[Embedding]:
    """The implementation for activations of `dtype` on `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import gpu, native
    from tradewind.kernels.embedding import reference
    from tradewind.kernels.embedding.cpu import NativeEmbedding

    def triton(chip: gpu.Chip) -> Embedding:
        from tradewind.kernels.embedding.triton import TritonEmbedding

        return TritonEmbedding(chip)

    library = native.load(level)
    candidates: list[Candidate[Embedding]] = [
        *gpu.candidates(device, dtype, triton, reference.embedding),
        Candidate("native", NativeEmbedding(library), library.unavailable, f"C++, {library.level}"),
        Candidate("reference", reference.embedding, about="a lookup by torch, on the device"),
    ]
    return pick(candidates, device, dtype, prefer)
