"""sample in C++ (kernels/native/sample.h)."""

import numpy as np
import torch
from torch import Tensor

from tradewind.kernels.native import Library
from tradewind.kernels.sample import SampleRows


class NativeSample:
    """See `tradewind.kernels.sample.Sample`. The logits are left as they are."""

    def __init__(self, library: Library) -> None:
        self._sample = library.function("sample", "pllppppppi")

    def __call__(self, logits_RV: Tensor, rows: SampleRows) -> Tensor:
        assert logits_RV.dtype == torch.float32
        assert logits_RV.is_contiguous()
        count, vocab = logits_RV.shape
        reals = [
            np.ascontiguousarray(column, np.float64)
            for column in (rows.temperature_R, rows.top_p_R, rows.min_p_R, rows.uniforms_R)
        ]
        temperature, top_p, min_p, uniform = (column.ctypes.data for column in reals)
        top_k_R = np.ascontiguousarray(rows.top_k_R, np.int64)
        tokens_R = torch.empty(count, dtype=torch.int64)
        self._sample(
            logits_RV.data_ptr(), vocab, count, temperature, top_k_R.ctypes.data, top_p, min_p, uniform,
            tokens_R.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return tokens_R
