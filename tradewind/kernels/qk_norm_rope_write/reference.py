"""qk_norm_rope_write in plain torch: the truth."""

import torch
from torch import Tensor

from tradewind.kernels.int8_pages import quantise
from tradewind.kernels.rows import HeadShape, Rows


def qk_norm_rope_write(
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
    """See `tradewind.kernels.qk_norm_rope_write.QkNormRopeWrite`."""
    dtype = qkv_TC.dtype
    heads = qkv_TC.view(len(qkv_TC), shape.heads + 2 * shape.kv_heads, shape.head_dim)
    q_THK, k_TGK, v_TGK = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
    cos_sin_TK = cos_sin_PK.index_select(0, rows.positions_T)
    q_THK = _norm_rotate(q_THK, q_norm_K, eps, cos_sin_TK).to(dtype)
    k_TGK = _norm_rotate(k_TGK, k_norm_K, eps, cos_sin_TK).to(dtype)
    block_tokens = k_pages_BGSK.shape[2]
    blocks_T, offsets_T = rows.write_T // block_tokens, rows.write_T % block_tokens
    as_bytes = k_pages_BGSK.dtype == torch.uint8
    k_pages_BGSK[blocks_T, :, offsets_T] = quantise(k_TGK) if as_bytes else k_TGK
    v_pages_BGSK[blocks_T, :, offsets_T] = quantise(v_TGK) if as_bytes else v_TGK
    return q_THK


def _norm_rotate(x_THK: Tensor, weight_K: Tensor | None, eps: float, cos_sin_TK: Tensor) -> Tensor:
    """One tensor's heads, normed if there is a weight, then rotated; float32."""
    x_THK = x_THK.float()
    if weight_K is not None:
        x_THK = x_THK * torch.rsqrt(x_THK.square().mean(dim=-1, keepdim=True) + eps) * weight_K.float()
    cos, sin = cos_sin_TK.unsqueeze(1).chunk(2, dim=-1)
    a, b = x_THK.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
