"""qk_norm_rope_write in C++ (kernels/native/rowwise.h): one pass, q in place."""

import torch
from torch import Tensor

from tradewind.kernels.int8_pages import row_width
from tradewind.kernels.native import DTYPE_CODES, Library
from tradewind.kernels.rows import HeadShape, Rows


class NativeQkNormRopeWrite:
    """See `tradewind.kernels.qk_norm_rope_write.QkNormRopeWrite`. The result is a view of qkv."""

    def __init__(self, library: Library) -> None:
        self._run = library.function("qk_norm_rope_write", "ipllpipppplll" + "iiiippfii")

    def __call__(
        self,
        qkv_TC: Tensor,
        rows: Rows,
        cos_sin_PK: Tensor,
        k_pages_BGSK: Tensor,
        v_pages_BGSK: Tensor,
        shape: HeadShape,
        q_norm_K: Tensor | None,
        k_norm_K: Tensor | None,
        eps: float,
    ) -> Tensor:
        tokens = qkv_TC.shape[0]
        block_stride, head_stride, token_stride, _ = k_pages_BGSK.stride()
        assert qkv_TC.shape[1] == shape.qkv_features, (qkv_TC.shape, shape)
        assert v_pages_BGSK.stride() == k_pages_BGSK.stride()
        assert k_pages_BGSK.dtype == v_pages_BGSK.dtype
        assert k_pages_BGSK.dtype in (qkv_TC.dtype, torch.uint8)
        assert k_pages_BGSK.shape[3] == row_width(shape.head_dim, k_pages_BGSK.dtype)
        assert cos_sin_PK.dtype == torch.float32
        assert rows.write_T.dtype == torch.int64
        if q_norm_K is None or k_norm_K is None:
            q_norm = k_norm = None
        else:
            assert q_norm_K.dtype == k_norm_K.dtype == qkv_TC.dtype
            q_norm, k_norm = q_norm_K.data_ptr(), k_norm_K.data_ptr()
        positions_T = rows.positions_T
        self._run(
            DTYPE_CODES[qkv_TC.dtype], qkv_TC.data_ptr(), qkv_TC.stride(0), tokens, positions_T.data_ptr(),
            positions_T.dtype == torch.int64, rows.write_T.data_ptr(), cos_sin_PK.data_ptr(), k_pages_BGSK.data_ptr(),
            v_pages_BGSK.data_ptr(), block_stride, head_stride, token_stride, k_pages_BGSK.shape[2], shape.heads,
            shape.kv_heads, shape.head_dim, q_norm, k_norm, eps,
            k_pages_BGSK.dtype == torch.uint8, torch.get_num_threads(),
        )  # fmt: skip
        return qkv_TC[:, : shape.heads * shape.head_dim].view(tokens, shape.heads, shape.head_dim)
