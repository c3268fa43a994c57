"""fused_attention in plain torch: the truth."""

from torch import Tensor

from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.paged_attention.reference import paged_attention
from tradewind.kernels.qk_norm_rope_write.reference import qk_norm_rope_write
from tradewind.kernels.rows import Rows


def fused_attention(
    qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
) -> Tensor:
    """See `tradewind.kernels.fused_attention.FusedAttention`."""
    norms = heads.q_norm_K, heads.k_norm_K, heads.eps
    q_THK = qk_norm_rope_write(qkv_TC, rows, heads.cos_sin_PK, k_pages_BGSK, v_pages_BGSK, heads.shape, *norms)
    out_THK = paged_attention(q_THK, k_pages_BGSK, v_pages_BGSK, rows, heads.scale, heads.window, heads.softcap)
    return out_THK.flatten(1)
