"""qk_norm_rope_write: what happens to q, k and v between their projection and attention."""

from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Candidate, Choice, Device, pick
from tradewind.kernels.rows import HeadShape, Rows


class QkNormRopeWrite(Protocol):
    """`qk_norm_rope_write(qkv_TC, rows, cos_sin_PK, k_pages, v_pages, shape, q_norm_K, k_norm_K, eps) -> q_THK`.

    qkv_TC: a row per token, divided as HeadShape says; the caller gives it up, and q_THK may be a view of it (so q's
    rows may be strided; within a token, [H, K] is dense).
    1. If q_norm_K and k_norm_K are given (both or neither, in the activations' dtype), each head of q and k is
       root-mean-square normed over K with `eps` and the weight. If not, eps is not read.
    2. Each head of q and k is rotated by its token's position (https://arxiv.org/abs/2104.09864). cos_sin_PK is float32
       and contiguous; its row p holds K/2 cosines, then K/2 sines. Number i of a head pairs with number i + K/2:
       (a, b) -> (a * cos_i - b * sin_i, b * cos_i + a * sin_i). K is even. Every position of the rows is below P.
    3. k and v of token t go to offset rows.write_T[t] % S of block rows.write_T[t] // S. Nothing else of the pages is
       written. The pages have the activations' dtype, or are 8-bit pages (int8_pages.py) on a CPU, or float8_e4m3fn on
       a GPU: numbers are rounded to that, and to -448 or 448 where they are beyond.
    Steps 1 and 2 are done in float32 without rounding between them.
    """

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
    ) -> Tensor: ...


def choose(
    device: Device, dtype: torch.dtype, prefer: str | None = None, level: str | None = None
) -> Choice[QkNormRopeWrite]:
    """The implementation for activations of `dtype` on `device`.

    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    from tradewind.kernels import gpu, native
    from tradewind.kernels.qk_norm_rope_write import reference
    from tradewind.kernels.qk_norm_rope_write.cpu import NativeQkNormRopeWrite

    def triton(chip: gpu.Chip) -> QkNormRopeWrite:
        from tradewind.kernels.qk_norm_rope_write.triton import TritonQkNormRopeWrite

        return TritonQkNormRopeWrite(chip)

    library = native.load(level)
    candidates: list[Candidate[QkNormRopeWrite]] = [
        *gpu.candidates(device, dtype, triton, reference.qk_norm_rope_write),
        Candidate("native", NativeQkNormRopeWrite(library), library.unavailable, f"C++, {library.level}"),
        Candidate("reference", reference.qk_norm_rope_write),
    ]
    return pick(candidates, device, dtype, prefer)
