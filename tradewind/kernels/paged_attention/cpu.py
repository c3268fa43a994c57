"""paged_attention in C++ (kernels/native/attention.h).

A token's result is the same to the bit however its row was divided into chunks, whatever other rows are in the step and
however many threads run: keys are taken in tiles of 64, and tiles in splits of 1,024, at fixed places of the sequence.
"""

import torch
from torch import Tensor

from tradewind.kernels.int8_pages import row_width
from tradewind.kernels.native import DTYPE_CODES, Library
from tradewind.kernels.rows import Rows

MAX_HEAD_DIM = 256


class NativePagedAttention:
    """See `tradewind.kernels.paged_attention.PagedAttention`. head_dim is even and at most MAX_HEAD_DIM."""

    def __init__(self, library: Library) -> None:
        self._attention = library.function("attention", "iplpplllpppllpiiiiflflii")

    def __call__(
        self,
        q_THK: Tensor,
        k_pages_BGSK: Tensor,
        v_pages_BGSK: Tensor,
        rows: Rows,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        _tokens, heads, head_dim = q_THK.shape
        _blocks, kv_heads, block_tokens, width = k_pages_BGSK.shape
        block_stride, head_stride, token_stride, _ = k_pages_BGSK.stride()
        tables_RM = rows.block_tables_RM
        assert head_dim <= MAX_HEAD_DIM, head_dim
        assert v_pages_BGSK.stride() == k_pages_BGSK.stride()
        assert k_pages_BGSK.dtype == v_pages_BGSK.dtype
        assert k_pages_BGSK.dtype in (q_THK.dtype, torch.uint8)
        assert width == row_width(head_dim, k_pages_BGSK.dtype)
        assert rows.query_starts_R1.dtype == rows.context_lens_R.dtype == tables_RM.dtype == torch.int32
        assert q_THK.stride()[1:] == (head_dim, 1)
        out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype)
        self._attention(
            DTYPE_CODES[q_THK.dtype], q_THK.data_ptr(), q_THK.stride(0), k_pages_BGSK.data_ptr(),
            v_pages_BGSK.data_ptr(), block_stride, head_stride, token_stride, rows.query_starts_R1.data_ptr(),
            rows.context_lens_R.data_ptr(), tables_RM.data_ptr(), tables_RM.stride(0), len(rows.context_lens_R),
            out_THK.data_ptr(), heads, kv_heads, head_dim, block_tokens, scale, window or 0, softcap or 0.0,
            rows.max_context, k_pages_BGSK.dtype == torch.uint8, torch.get_num_threads(),
        )  # fmt: skip
        return out_THK
