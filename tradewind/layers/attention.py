"""Self-attention over the KV pool: projection, qk-norm, rotary and page write, attention, projection back."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.ops import Ops
from tradewind.kernels.quantised_rows import Activations, MeasuredRows, NormedRows
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.layers.linear import Linear


@dataclass(frozen=True)
class QkNorm:
    """Norms of each query and key head, for families that have them."""

    q_norm_K: Tensor
    k_norm_K: Tensor
    eps: float

    @property
    def nbytes(self) -> int:
        return self.q_norm_K.nbytes + self.k_norm_K.nbytes


@dataclass(frozen=True)
class Attention:
    """One layer's attention. `cos_sin_PK` is shared by all layers; `window` in tokens, None for the whole context.

    `largest`: no value is larger, whatever the row; None where the projection back takes no rows of 8 bits.
    """

    shape: HeadShape
    qkv: Linear
    out: Linear
    cos_sin_PK: Tensor
    qk_norm: QkNorm | None
    scale: float
    window: int | None
    ops: Ops
    largest: float | None = None

    def __call__(self, x: Activations, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor) -> Tensor:
        """x_TD -> y_TD; the keys and values of the step's tokens are written to the layer's pages."""
        qkv_TC, fused = self.qkv(x), self.ops.fused_attention
        if fused is not None and self.largest is not None and fused.quantises(rows, self.shape):
            return self.out(fused.quantised(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK, self._heads))
        return self.out(self.attend(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK))

    def in_8_bits(self, x: NormedRows, rows: Rows, pages: tuple[Tensor, Tensor]) -> MeasuredRows:
        """The same but for the projection back, for steps that fused_attention `quantises`."""
        fused = self.ops.fused_attention
        assert fused is not None
        return fused.quantised(self.qkv(x), rows, *pages, self._heads)

    def attend(self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor) -> Tensor:
        """The same between the two projections: qkv_TC -> heads side by side [T, H * K]."""
        fused = self.ops.fused_attention
        if fused is not None and fused.takes(rows, self.shape):
            return fused(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK, self._heads)
        q_THK = self.ops.qk_norm_rope_write(
            qkv_TC, rows, self.cos_sin_PK, k_pages_BGSK, v_pages_BGSK, self.shape, *self._norms
        )
        out_THK = self.ops.paged_attention(q_THK, k_pages_BGSK, v_pages_BGSK, rows, self.scale, self.window)
        return out_THK.flatten(1)

    @property
    def _heads(self) -> LayerHeads:
        return LayerHeads(self.shape, self.cos_sin_PK, *self._norms, self.scale, self.window, largest=self.largest)

    @property
    def _norms(self) -> tuple[Tensor | None, Tensor | None, float]:
        norm = self.qk_norm
        return (None, None, 0.0) if norm is None else (norm.q_norm_K, norm.k_norm_K, norm.eps)

    @property
    def nbytes(self) -> int:
        return self.qkv.nbytes + self.out.nbytes + (self.qk_norm.nbytes if self.qk_norm else 0)
