"""mask_logits: forbid what a grammar does not allow.

Legend: R rows, V vocabulary, M rows with a mask, W words of a mask.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick


@dataclass(frozen=True, slots=True)
class Masked:
    """`rows_M` (int64): rows that may choose only where their bit of `bits_MW` (int32, little-endian) is set."""

    rows_M: Tensor
    bits_MW: Tensor


class MaskLogits(Protocol):
    """`mask_logits(logits_RV, masked)`: what is not allowed becomes -inf, in place.

    logits_RV: float32, contiguous. Both tensors of `masked` are contiguous; no row comes twice. Bits beyond V mean
    nothing.
    """

    def __call__(self, logits_RV: Tensor, masked: Masked) -> None: ...


def choose(device: Device, prefer: str | None = None, level: str | None = None) -> Choice[MaskLogits]:
    """The implementation for `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import native
    from tradewind.kernels.mask_logits import reference
    from tradewind.kernels.mask_logits.cpu import NativeMaskLogits

    library = native.load(level)
    candidates: list[Candidate[MaskLogits]] = [
        Candidate("native", NativeMaskLogits(library), library.unavailable, f"C++, {library.level}"),
        Candidate("reference", reference.mask_logits, about="by torch, on the device"),
    ]
    return pick(candidates, device, torch.float32, prefer)
