"""silu_mul: the gate of a SwiGLU feed-forward layer (https://arxiv.org/abs/2002.05202)."""

from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, pick


class SiluMul(Protocol):
    """`silu_mul(gate_up_T2F) -> act_TF`: silu(gate) * up in float32, rounded once; gate is the first half of a row."""

    def __call__(self, gate_up_T2F: Tensor) -> Tensor: ...


def choose(
    device: torch.device, dtype: torch.dtype, prefer: str | None = None, level: str | None = None
) -> Choice[SiluMul]:
    """The implementation for activations of `dtype` on `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import native
    from tradewind.kernels.silu_mul import reference
    from tradewind.kernels.silu_mul.cpu import NativeSiluMul

    library = native.load(level)
    candidates: list[Candidate[SiluMul]] = [
        Candidate("native", NativeSiluMul(library), library.unavailable, f"C++, {library.level}"),
        Candidate("reference", reference.silu_mul),
    ]
    return pick(candidates, device, dtype, prefer)
