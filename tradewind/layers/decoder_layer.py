"""One layer of a decoder: attention and feed-forward, each after a norm of the residual stream."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels.rows import Rows
from tradewind.layers.attention import Attention
from tradewind.layers.feed_forward import FeedForward
from tradewind.layers.norm import RmsNorm


@dataclass(frozen=True)
class DecoderLayer:
    """Pre-norm decoder layer. The residual sum is left to the next norm, which is fused with it."""

    input_norm: RmsNorm
    attention: Attention
    post_norm: RmsNorm
    feed_forward: FeedForward

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, rows: Rows, pages: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(x_TD, residual_TD) of the layer before -> those for the layer after; `pages` as in KVPool.layer."""
        x_TD, residual_TD = self.input_norm(x_TD, residual_TD)
        x_TD = self.attention(x_TD, rows, *pages)
        x_TD, residual_TD = self.post_norm(x_TD, residual_TD)
        return self.feed_forward(x_TD), residual_TD

    @property
    def nbytes(self) -> int:
        return self.input_norm.nbytes + self.attention.nbytes + self.post_norm.nbytes + self.feed_forward.nbytes
