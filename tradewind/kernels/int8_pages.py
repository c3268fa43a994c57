"""KV pages of 8-bit numbers.

A token's row in a page is K bytes and then, in SCALE_BYTES more, the float32 that they are multiplied with: number =
scale * (byte - ZERO). Keys and values of each head are quantised by themselves, token by token, when they are written.
In Python such pages are uint8 tensors whose last dimension is K + SCALE_BYTES wide.
"""

import torch
from torch import Tensor

SCALE_BYTES = 4
ZERO = 128


def row_width(head_dim: int, dtype: torch.dtype) -> int:
    """The last dimension of pages of `dtype`: uint8 is 8-bit pages, a float dtype the numbers themselves."""
    return head_dim + SCALE_BYTES if dtype == torch.uint8 else head_dim


def quantise(x: Tensor) -> Tensor:
    """Numbers [..., K] -> rows [..., K + SCALE_BYTES]: the largest of a row becomes 127 steps."""
    wide = x.float()
    largest = wide.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, 0)
    steps = (wide * inverse).round().clamp(-127, 127).nan_to_num(0)
    poisoned = (largest / 127 + (wide * 0).sum(dim=-1, keepdim=True)).contiguous()
    return torch.cat(((steps + ZERO).to(torch.uint8), poisoned.view(torch.uint8)), dim=-1)


def dequantise(rows: Tensor) -> Tensor:
    """Rows [..., K + SCALE_BYTES] -> numbers [..., K], float32."""
    scales = rows[..., -SCALE_BYTES:].contiguous().view(torch.float32)
    return (rows[..., :-SCALE_BYTES].float() - ZERO) * scales


def numbers(pages: Tensor) -> Tensor:
    """What a part of pages of either kind stands for: float32 of 8-bit rows, others as they are."""
    return dequantise(pages) if pages.dtype == torch.uint8 else pages
