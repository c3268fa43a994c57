"""qk_norm_rope_write in Triton: q is rotated where it lies, k and v go to their pages (in 8 bits, if those are)."""

import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import FEW_TOKENS, Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.quantised_rows import FP8
from tradewind.kernels.rows import HeadShape, Rows

_MOST_HEADS = 16  # of one program


@triton.jit
def qk_norm_rope_write_kernel(
    qkv, qkv_stride, positions, write, cos_sin, k_pages, v_pages, block_stride, q_norm, k_norm, eps,
    H, G, S, K: tl.constexpr,
    HAS_NORM: tl.constexpr, QUANTISES: tl.constexpr, OVERLAPS: tl.constexpr, RELEASES: tl.constexpr,
    HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Program (t, i): the i-th HEADS heads of token t. HALF is K / 2, filled up to a power of two.

    RELEASES: attention may begin before this ends.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    i = tl.arange(0, HALF)
    pair = i < K // 2
    inside = (head < H + 2 * G)[:, None] & pair[None, :]
    is_q, is_v = head < H, head >= H + G
    if HAS_NORM:
        q_first = tl.load(q_norm + i, mask=pair, other=0.0).to(tl.float32)
        q_second = tl.load(q_norm + K // 2 + i, mask=pair, other=0.0).to(tl.float32)
        k_first = tl.load(k_norm + i, mask=pair, other=0.0).to(tl.float32)
        k_second = tl.load(k_norm + K // 2 + i, mask=pair, other=0.0).to(tl.float32)
    release(OVERLAPS and RELEASES)
    # Where a token is was written before the layers began.
    position = tl.load(positions + token).to(tl.int64)
    place = tl.load(write + token)
    cos = tl.load(cos_sin + position * K + i, mask=pair, other=0.0)[None, :]
    sin = tl.load(cos_sin + position * K + K // 2 + i, mask=pair, other=0.0)[None, :]
    begin(OVERLAPS)
    here = qkv + token * qkv_stride + head[:, None] * K + i[None, :]
    a_raw = tl.load(here, mask=inside, other=0.0)
    b_raw = tl.load(here + K // 2, mask=inside, other=0.0)
    a, b = a_raw.to(tl.float32), b_raw.to(tl.float32)
    if HAS_NORM:
        scale = 1.0 / tl.sqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / K + eps)
        a = a * scale[:, None] * tl.where(is_q[:, None], q_first[None, :], k_first[None, :])
        b = b * scale[:, None] * tl.where(is_q[:, None], q_second[None, :], k_second[None, :])
    first = tl.where(is_v[:, None], a_raw.to(tl.float32), a * cos - b * sin)
    second = tl.where(is_v[:, None], b_raw.to(tl.float32), b * cos + a * sin)
    to_q = inside & is_q[:, None]
    tl.store(here, first.to(qkv.dtype.element_ty), mask=to_q)
    tl.store(here + K // 2, second.to(qkv.dtype.element_ty), mask=to_q)
    if QUANTISES:
        first, second = in_range(first), in_range(second)
    kv_head = tl.where(is_v, head - H - G, head - H)
    there = (place // S) * block_stride + kv_head[:, None].to(tl.int64) * (S * K) + (place % S) * K + i[None, :]
    to_k = inside & (~is_q & ~is_v)[:, None]
    tl.store(k_pages + there, first.to(k_pages.dtype.element_ty), mask=to_k)
    tl.store(k_pages + there + K // 2, second.to(k_pages.dtype.element_ty), mask=to_k)
    to_v = inside & is_v[:, None]
    tl.store(v_pages + there, first.to(v_pages.dtype.element_ty), mask=to_v)
    tl.store(v_pages + there + K // 2, second.to(v_pages.dtype.element_ty), mask=to_v)


class TritonQkNormRopeWrite:
    """See `tradewind.kernels.qk_norm_rope_write.QkNormRopeWrite`. q_THK is a view of qkv_TC."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

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
        tokens, head_dim = len(qkv_TC), shape.head_dim
        all_heads = shape.heads + 2 * shape.kv_heads
        heads = min(_MOST_HEADS, next_power_of_2(all_heads))
        half = next_power_of_2(head_dim // 2)
        if tokens:
            qk_norm_rope_write_kernel[(tokens, triton.cdiv(all_heads, heads))](
                qkv_TC, qkv_TC.stride(0), rows.positions_T, rows.write_T, cos_sin_PK, k_pages_BGSK, v_pages_BGSK,
                k_pages_BGSK.stride(0), q_norm_K, k_norm_K, eps, shape.heads, shape.kv_heads, k_pages_BGSK.shape[2],
                K=head_dim, HAS_NORM=q_norm_K is not None, QUANTISES=k_pages_BGSK.dtype == FP8,
                OVERLAPS=self._chip.overlaps, RELEASES=tokens <= FEW_TOKENS, HEADS=heads, HALF=half,
                num_warps=max(1, min(4, heads * half // 256)), **self._chip.launch,
            )  # fmt: skip
        return qkv_TC[:, : shape.heads * head_dim].view(tokens, shape.heads, head_dim)
