"""add_rms_norm in C++ (kernels/native/rowwise.h)."""

import torch
from torch import Tensor

from tradewind.kernels.native import DTYPE_CODES, Library


class NativeAddRmsNorm:
    """See `tradewind.kernels.add_rms_norm.AddRmsNorm`. The residual sum is written into `residual_TD`."""

    def __init__(self, library: Library) -> None:
        self._add_rms_norm = library.function("add_rms_norm", "iplplppplllfi")

    def __call__(self, x_TD: Tensor, residual_TD: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        tokens, size = x_TD.shape
        assert weight_D.dtype == x_TD.dtype
        assert weight_D.shape == (size,)
        normed_TD = torch.empty((tokens, size), dtype=x_TD.dtype)
        if residual_TD is None:
            sum_TD = x_TD.contiguous()
            residual = None
        else:
            assert residual_TD.shape == x_TD.shape
            assert residual_TD.dtype == x_TD.dtype
            sum_TD = residual_TD.contiguous()
            residual = sum_TD.data_ptr()
        x_TD = sum_TD if residual is None else x_TD
        self._add_rms_norm(
            DTYPE_CODES[x_TD.dtype], x_TD.data_ptr(), x_TD.stride(0), residual, size, weight_D.data_ptr(),
            normed_TD.data_ptr(), sum_TD.data_ptr(), size, tokens, size, eps, torch.get_num_threads(),
        )  # fmt: skip
        return normed_TD, sum_TD
