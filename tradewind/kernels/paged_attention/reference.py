"""paged_attention in plain torch, row by row: the truth."""

import torch
from torch import Tensor

from tradewind.kernels.int8_pages import numbers
from tradewind.kernels.rows import Rows


def paged_attention(
    q_THK: Tensor,
    k_pages_BGSK: Tensor,
    v_pages_BGSK: Tensor,
    rows: Rows,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """See `tradewind.kernels.paged_attention.PagedAttention`."""
    out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype, device=q_THK.device)
    starts = rows.query_starts_R1.tolist()
    for row, context in enumerate(rows.context_lens_R.tolist()):
        begin, end = starts[row], starts[row + 1]
        positions_Q = torch.arange(context - (end - begin), context, device=q_THK.device)
        first = 0 if window is None else max(0, context - (end - begin) - window + 1)
        table_M = rows.block_tables_RM[row]
        k_GjK = gather(k_pages_BGSK, table_M, first, context)
        v_GjK = gather(v_pages_BGSK, table_M, first, context)
        allowed_Qj = visible(positions_Q, torch.arange(first, context, device=q_THK.device), window)
        out_THK[begin:end] = _attend(q_THK[begin:end], k_GjK, v_GjK, allowed_Qj, scale, softcap).to(q_THK.dtype)
    return out_THK


def gather(pages_BGSK: Tensor, table_M: Tensor, first: int, last: int) -> Tensor:
    """The positions [first, last) of one sequence, as [G, last - first, K] (j: positions); 8-bit pages as float32."""
    block_tokens = pages_BGSK.shape[2]
    positions_j = torch.arange(first, last, device=pages_BGSK.device)
    blocks_j = table_M.long()[positions_j // block_tokens]
    return numbers(pages_BGSK[blocks_j, :, positions_j % block_tokens]).transpose(0, 1)


def visible(positions_Q: Tensor, positions_j: Tensor, window: int | None) -> Tensor:
    """Which keys (j) each query (Q) may see: bool [Q, j]."""
    distance_Qj = positions_Q[:, None] - positions_j[None, :]
    allowed_Qj = distance_Qj >= 0
    return allowed_Qj if window is None else allowed_Qj & (distance_Qj < window)


def _attend(
    q_QHK: Tensor, k_GjK: Tensor, v_GjK: Tensor, allowed_Qj: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """Softmax attention of one row, in float32: [Q, H, K]."""
    repeats = q_QHK.shape[1] // k_GjK.shape[0]
    k_HjK = k_GjK.float().repeat_interleave(repeats, dim=0)
    v_HjK = v_GjK.float().repeat_interleave(repeats, dim=0)
    scores_HQj = q_QHK.float().transpose(0, 1) @ k_HjK.transpose(1, 2) * scale
    if softcap is not None:
        scores_HQj = softcap * torch.tanh(scores_HQj / softcap)
    weights_HQj = scores_HQj.masked_fill(~allowed_Qj, float("-inf")).softmax(dim=-1)
    return (weights_HQj @ v_HjK).transpose(0, 1)
