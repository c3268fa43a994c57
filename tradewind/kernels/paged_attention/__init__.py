"""paged_attention: causal attention of a step's tokens over their sequences' keys and values in the pool."""

from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick
from tradewind.kernels.rows import Rows


class PagedAttention(Protocol):
    """`paged_attention(q_THK, k_pages_BGSK, v_pages_BGSK, rows, scale, window=None, softcap=None) -> out_THK`.

    The query of head h at position p of a row attends to the positions j of the same row with j <= p, and with
    p - j < window if there is a window (at least 1). Position j lies at offset j % S of block
    rows.block_tables_RM[row, j // S]; this step's own keys and values have been written before. The score is
    scale * (q . k), then softcap * tanh(score / softcap) if there is a softcap; out is the softmax-weighted sum of the
    values of key-value head h // (H // G). Pages of other sequences, places past a row's context, and places that have
    left the window may hold anything. q_THK: rows may be strided, [H, K] is dense. The pages have q's dtype, or are
    8-bit pages (int8_pages.py) on a CPU, or float8_e4m3fn on a GPU. Softmax and sums are in float32.
    """

    def __call__(
        self,
        q_THK: Tensor,
        k_pages_BGSK: Tensor,
        v_pages_BGSK: Tensor,
        rows: Rows,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor: ...


def choose(
    device: Device,
    dtype: torch.dtype,
    prefer: str | None = None,
    level: str | None = None,
    *,
    exact: bool = False,
) -> Choice[PagedAttention]:
    """The implementation for activations of `dtype` on `device`. `exact`: a row's result depends on that row alone.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import gpu, native
    from tradewind.kernels.paged_attention import reference, torch_sdpa
    from tradewind.kernels.paged_attention.cpu import NativePagedAttention

    def triton(chip: gpu.Chip) -> PagedAttention:
        from tradewind.kernels.paged_attention.triton import TritonPagedAttention

        assert isinstance(device, torch.device)
        return TritonPagedAttention(device, chip, exact=exact)

    about = (
        ", one tile for all rows, no context split"
        if exact
        else (", small tiles for decodes, large ones for prompts, long contexts split")
    )
    library = native.load(level)
    candidates: list[Candidate[PagedAttention]] = [
        *gpu.candidates(device, dtype, triton, reference.paged_attention, about=about),
        Candidate("native", NativePagedAttention(library), library.unavailable, f"C++, {library.level}"),
        Candidate("torch", torch_sdpa.paged_attention, about="torch's fused attention over gathered pages"),
        Candidate("reference", reference.paged_attention),
    ]
    return pick(candidates, device, dtype, prefer)
