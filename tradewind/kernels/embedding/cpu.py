"""embedding in C++ (kernels/native/rowwise.h)."""

import torch
from torch import Tensor

from tradewind.kernels.native import Library


class NativeEmbedding:
    """See `tradewind.kernels.embedding.Embedding`."""

    def __init__(self, library: Library) -> None:
        self._gather_rows = library.function("gather_rows", "plpilpi")

    def __call__(self, ids_T: Tensor, weight_VD: Tensor) -> Tensor:
        assert ids_T.is_contiguous()
        assert weight_VD.is_contiguous()
        x_TD = torch.empty((len(ids_T), weight_VD.shape[1]), dtype=weight_VD.dtype)
        self._gather_rows(
            weight_VD.data_ptr(), weight_VD.shape[1] * weight_VD.itemsize, ids_T.data_ptr(),
            ids_T.dtype == torch.int64, len(ids_T), x_TD.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return x_TD
