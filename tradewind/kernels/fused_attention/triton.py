"""fused_attention in Triton: one row has a kernel of its own (one_row.py), some rows have another (some_rows.py)."""

import torch
from torch import Tensor

from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_attention.one_row import OneRow
from tradewind.kernels.fused_attention.some_rows import SomeRows
from tradewind.kernels.gpu import Chip
from tradewind.kernels.quantised_rows import MeasuredRows
from tradewind.kernels.rows import HeadShape, Rows


class TritonFusedAttention:
    """See `tradewind.kernels.fused_attention.FusedAttention`.

    Owns memory, so calls must follow each other on one stream. `releases`: see OneRow.
    """

    def __init__(self, device: torch.device, chip: Chip, *, releases: bool = False) -> None:
        self._one = OneRow(device, chip, releases=releases)
        self._some = SomeRows(device, chip)

    def takes(self, rows: Rows, shape: HeadShape) -> bool:
        """See FusedAttention."""
        return self._one.takes(rows, shape) or self._some.takes(rows, shape)

    def __call__(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> Tensor:
        run = self._one if len(rows.context_lens_R) == 1 else self._some
        return run(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK, heads)

    def quantises(self, rows: Rows, shape: HeadShape) -> bool:
        """See FusedAttention."""
        return self._some.takes(rows, shape)

    def quantised(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> MeasuredRows:
        """See FusedAttention."""
        return self._some.quantised(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK, heads)
