"""fused_attention: qk_norm_rope_write and paged_attention in one, for steps of a few rows of one token each.

So short a step waits for its kernels one after the other, and here is one fewer. Of a single token keys and values are
on their way before its own row is there.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tradewind.kernels.choice import Device
from tradewind.kernels.quantised_rows import MeasuredRows
from tradewind.kernels.rows import HeadShape, Rows


@dataclass(frozen=True, slots=True)
class LayerHeads:
    """What a layer's heads have of their own; see QkNormRopeWrite and PagedAttention, which say what each of it is.

    `largest`: no value is larger, and so nothing that comes out.
    """

    shape: HeadShape
    cos_sin_PK: Tensor
    q_norm_K: Tensor | None
    k_norm_K: Tensor | None
    eps: float
    scale: float
    window: int | None = None
    softcap: float | None = None
    largest: float | None = None


class FusedAttention(Protocol):
    """`fused_attention(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK, heads) -> out_TC`, of rows of one token each.

    What qk_norm_rope_write and then paged_attention give, heads side by side [T, H * K], and the pages as the former
    leaves them; qkv_TC is left as it is. A row that has no token (see Rows, of which a step that is rounded up may have
    some) gets what nobody may read, and its place may be written all the same. The token's own key and value count as
    the pages hold them.
    """

    def takes(self, rows: Rows, shape: HeadShape) -> bool:
        """Whether this is such a step, and of heads for which this is faster than its parts."""
        ...

    def __call__(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> Tensor: ...

    def quantises(self, rows: Rows, shape: HeadShape) -> bool:
        """Whether `quantised` is for this step, too."""
        ...

    def quantised(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> MeasuredRows:
        """The same, quantised for the next product before it is rounded: by `heads.largest`, which becomes 448.

        Nobody has to look for a row's largest number. What comes out is much smaller than that may be, which costs no
        precision down to 2^-14.8 of it: 8-bit floats have as many bits there. Each key-value head's part is measured.
        """
        ...


def choose(device: Device, dtype: torch.dtype, *, exact: bool = False, releases: bool = False) -> FusedAttention | None:
    """The implementation, where one is faster than its parts: on a GPU, where a context may be cut.

    `releases`: what comes after a single row gains by having the first of its weights brought meanwhile.
    """
    from tradewind.kernels import gpu

    if not gpu.may_fuse(device, dtype, exact=exact) or isinstance(device, gpu.AbsentGpu):
        return None
    assert isinstance(device, torch.device)
    from tradewind.kernels.fused_attention.triton import TritonFusedAttention

    return TritonFusedAttention(device, gpu.Chip.of(device), releases=releases)
