"""One layer of a decoder: attention and feed-forward, each after a norm of the residual stream."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels.chained_linear import ChainedLinear, PreparedRows
from tradewind.kernels.fused_linear import FusedLinear, Norm
from tradewind.kernels.linear_add_norm import Bounded, LinearAddNorm
from tradewind.kernels.quantised_rows import NormedRows
from tradewind.kernels.rows import Rows
from tradewind.layers.attention import Attention
from tradewind.layers.feed_forward import FeedForward
from tradewind.layers.linear import Linear
from tradewind.layers.norm import RmsNorm


@dataclass(frozen=True)
class Bounds:
    """What is known of the norm at a layer's begin, and of those after its two sums."""

    input: Bounded
    out: Bounded
    down: Bounded


@dataclass(frozen=True)
class DecoderLayer:
    """Pre-norm decoder layer. The residual sum is left to the next norm, which is fused with it."""

    input_norm: RmsNorm
    attention: Attention
    post_norm: RmsNorm
    feed_forward: FeedForward
    fused: FusedLinear | None = None  # for steps of a few tokens: five kernels, with the residual sum always complete
    fused_rows: int = 0  # so many tokens at most
    bounds: Bounds | None = None  # None: `in_8_bits` is not for it

    def __call__(
        self, x_TD: Tensor, residual_TD: Tensor | None, rows: Rows, pages: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """(x_TD, residual_TD) of the layer before -> those for the layer after; `pages` as in KVPool.layer."""
        if self.fused is not None and len(x_TD) <= self.fused_rows:
            assert residual_TD is None
            return self._few(x_TD, rows, pages, self.fused), None
        normed, residual_TD = self.input_norm(x_TD, residual_TD)
        x_TD = self.attention(normed, rows, *pages)
        normed, residual_TD = self.post_norm(x_TD, residual_TD)
        return self.feed_forward(normed), residual_TD

    def _few(self, x_TD: Tensor, rows: Rows, pages: tuple[Tensor, Tensor], fused: FusedLinear) -> Tensor:
        attention, feed_forward = self.attention, self.feed_forward
        qkv_TC = fused(x_TD, attention.qkv.weight, self.input_norm.as_part)
        out_TD = attention.attend(qkv_TC, rows, *pages)
        x_TD = fused(out_TD, attention.out.weight, residual_TN=x_TD)
        act_TF = fused(x_TD, feed_forward.gate_up.weight, self.post_norm.as_part, gated=True)
        return fused(act_TF, feed_forward.down.weight, residual_TN=x_TD)

    def chained(
        self,
        prepared: PreparedRows,
        x_TD: Tensor,
        rows: Rows,
        pages: tuple[Tensor, Tensor],
        run: ChainedLinear,
        next_norm: Norm,
    ) -> PreparedRows:
        """The rows for the layer after: `next_norm`, its own, of x_TD, which is overwritten by what this layer gives.

        `prepared`: this layer's norm of x_TD as it comes in. Only for a `run` that it `fits`.
        """
        attention, feed_forward = self.attention, self.feed_forward
        out_TD = attention.attend(run.linear(prepared, attention.qkv.weight), rows, *pages)
        gate_up, down = feed_forward.gate_up.weight, feed_forward.down.weight
        prepared = run.add(run.prepare(out_TD), attention.out.weight, x_TD, self.post_norm.as_part, gate_up)
        return run.add(run.gated(prepared, gate_up, down), down, x_TD, next_norm)

    def in_8_bits(
        self, normed: NormedRows, x_TD: Tensor, rows: Rows, pages: tuple[Tensor, Tensor], run: LinearAddNorm
    ) -> NormedRows:
        """The rows for the layer after, as `chained`. Only for a step and a layer that `run` and attention take."""
        attention, feed_forward, bounds = self.attention, self.feed_forward, self.bounds
        assert bounds is not None
        out = attention.in_8_bits(normed, rows, pages)
        normed = run(out, attention.out.weight, x_TD, normed, bounds.out)
        act = feed_forward.in_8_bits(normed)
        return run(act, feed_forward.down.weight, x_TD, normed, bounds.down)

    def fits(self, run: ChainedLinear) -> bool:
        """Whether `chained` can be used."""
        return all(run.takes(linear.weight) for linear in self.linears)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """In the order in which they run."""
        return self.attention.qkv, self.attention.out, self.feed_forward.gate_up, self.feed_forward.down

    @property
    def nbytes(self) -> int:
        return self.input_norm.nbytes + self.attention.nbytes + self.post_norm.nbytes + self.feed_forward.nbytes
