"""mask_logits in C++ (kernels/native/mask.h)."""

import torch
from torch import Tensor

from tradewind.kernels.mask_logits import Masked
from tradewind.kernels.native import Library


class NativeMaskLogits:
    """See `tradewind.kernels.mask_logits.MaskLogits`."""

    def __init__(self, library: Library) -> None:
        self._mask_logits = library.function("mask_logits", "plplpli")

    def __call__(self, logits_RV: Tensor, masked: Masked) -> None:
        rows_M, bits_MW = masked.rows_M, masked.bits_MW
        self._mask_logits(
            logits_RV.data_ptr(), logits_RV.shape[1], rows_M.data_ptr(), len(rows_M), bits_MW.data_ptr(),
            bits_MW.shape[1], torch.get_num_threads(),
        )  # fmt: skip
