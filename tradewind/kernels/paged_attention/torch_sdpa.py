"""paged_attention by torch's fused attention: decode rows of like context in one call, other rows one by one.

Legend beyond the package's: r rows of one group, j positions gathered, Q = H // G queries that share a key-value head,
n tokens of one row.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tradewind.kernels.int8_pages import numbers
from tradewind.kernels.paged_attention import reference
from tradewind.kernels.rows import Rows

# Rows share a call while the shortest context is at least this part of the longest: what is padded is wasted.
_LEAST_SHARE = 0.75


def paged_attention(
    q_THK: Tensor,
    k_pages_BGSK: Tensor,
    v_pages_BGSK: Tensor,
    rows: Rows,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """See `tradewind.kernels.paged_attention.PagedAttention`. A soft-cap takes the reference path."""
    if softcap is not None:
        return reference.paged_attention(q_THK, k_pages_BGSK, v_pages_BGSK, rows, scale, window, softcap)
    out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype, device=q_THK.device)
    starts, contexts = rows.query_starts_R1.tolist(), rows.context_lens_R.tolist()
    decode = [row for row in range(len(contexts)) if starts[row + 1] - starts[row] == 1]
    for group in _group(decode, contexts):
        tokens_r = torch.tensor([starts[row] for row in group], device=q_THK.device)
        longest = contexts[group[0]] if window is None else min(window, contexts[group[0]])
        group_r = torch.tensor(group, device=q_THK.device)
        q_rHK = q_THK[tokens_r]
        out_THK[tokens_r] = _decode(q_rHK, k_pages_BGSK, v_pages_BGSK, rows, group_r, longest, scale)
    for row, context in enumerate(contexts):
        if starts[row + 1] - starts[row] > 1:
            tokens = slice(starts[row], starts[row + 1])
            table_M = rows.block_tables_RM[row]
            out_THK[tokens] = _chunk(q_THK[tokens], k_pages_BGSK, v_pages_BGSK, table_M, context, scale, window)
    return out_THK


def _group(decode: list[int], contexts: list[int]) -> list[list[int]]:
    """Rows in groups of like context, the longest first in each."""
    groups: list[list[int]] = []
    for row in sorted(decode, key=lambda row: -contexts[row]):
        if groups and contexts[row] >= _LEAST_SHARE * contexts[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _decode(
    q_rHK: Tensor, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, rows: Rows, group_r: Tensor, longest: int, scale: float
) -> Tensor:
    """One query per row over the last `longest` positions of its context: [r, H, K]."""
    kv_heads, block_tokens = k_pages_BGSK.shape[1:3]
    contexts_r = rows.context_lens_R[group_r].long()
    positions_rj = contexts_r[:, None] - longest + torch.arange(longest, device=q_rHK.device)
    seen_rj = positions_rj >= 0
    # Places before a shorter context's first read position 0 instead: it is there, and the mask hides it.
    positions_rj.clamp_(min=0)
    blocks_rj = rows.block_tables_RM[group_r].long().gather(1, positions_rj // block_tokens)
    offsets_rj = positions_rj % block_tokens
    out_rGQK = scaled_dot_product_attention(
        q_rHK.view(len(q_rHK), kv_heads, -1, q_rHK.shape[-1]),
        numbers(k_pages_BGSK[blocks_rj, :, offsets_rj]).to(q_rHK.dtype).transpose(1, 2),
        numbers(v_pages_BGSK[blocks_rj, :, offsets_rj]).to(q_rHK.dtype).transpose(1, 2),
        attn_mask=seen_rj[:, None, None, :],
        scale=scale,
    )
    return out_rGQK.flatten(1, 2)


def _chunk(
    q_nHK: Tensor,
    k_pages_BGSK: Tensor,
    v_pages_BGSK: Tensor,
    table_M: Tensor,
    context: int,
    scale: float,
    window: int | None,
) -> Tensor:
    """The last n positions of one row's context: [n, H, K]."""
    count, device = q_nHK.shape[0], q_nHK.device
    first = 0 if window is None else max(0, context - count - window + 1)
    k_GjK = reference.gather(k_pages_BGSK, table_M, first, context).to(q_nHK.dtype)
    v_GjK = reference.gather(v_pages_BGSK, table_M, first, context).to(q_nHK.dtype)
    queries = q_nHK.shape[1] // k_GjK.shape[0]
    whole = count == context and window is None
    allowed_nj = None
    if not whole:
        positions_n = torch.arange(context - count, context, device=device)
        allowed_nj = reference.visible(positions_n, torch.arange(first, context, device=device), window)
    out_GQnK = scaled_dot_product_attention(
        q_nHK.view(count, -1, queries, q_nHK.shape[-1]).permute(1, 2, 0, 3),
        k_GjK[:, None].expand(-1, queries, -1, -1),
        v_GjK[:, None].expand(-1, queries, -1, -1),
        attn_mask=allowed_nj,
        is_causal=whole,
        scale=scale,
    )
    return out_GQnK.permute(2, 0, 1, 3).flatten(1, 2)
