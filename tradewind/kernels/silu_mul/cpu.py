"""silu_mul in C++ (kernels/native/rowwise.h)."""

import torch
from torch import Tensor

from tradewind.kernels.native import DTYPE_CODES, Library


class NativeSiluMul:
    """See `tradewind.kernels.silu_mul.SiluMul`."""

    def __init__(self, library: Library) -> None:
        self._silu_mul = library.function("silu_mul", "iplllpi")

    def __call__(self, gate_up_T2F: Tensor) -> Tensor:
        tokens, width = gate_up_T2F.shape
        out_TF = torch.empty((tokens, width // 2), dtype=gate_up_T2F.dtype)
        self._silu_mul(
            DTYPE_CODES[gate_up_T2F.dtype], gate_up_T2F.data_ptr(), gate_up_T2F.stride(0), tokens, width // 2,
            out_TF.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return out_TF
