"""The gated feed-forward layer (SwiGLU)."""

from dataclasses import dataclass

from torch import Tensor

from tradewind.kernels.gated_linear import GatedLinear
from tradewind.kernels.quantised_rows import Activations, MeasuredRows, NormedRows
from tradewind.kernels.silu_mul import QuantisingSiluMul, SiluMul
from tradewind.layers.linear import Linear


@dataclass(frozen=True)
class FeedForward:
    """down(silu(gate(x)) * up(x)); gate and up are one projection."""

    gate_up: Linear
    down: Linear
    silu_mul: SiluMul | QuantisingSiluMul
    gated: GatedLinear | None = None  # for what it `takes`, instead of its parts

    def __call__(self, x: Activations) -> Tensor:
        """x_TD -> y_TD."""
        if self.gated is not None and self.gated.takes(x, self.gate_up.weight):
            return self.down(self.gated(x, self.gate_up.weight))
        return self.down(self.silu_mul(self.gate_up(x)))

    def in_8_bits(self, x: NormedRows) -> MeasuredRows:
        """The same but for `down`, for rows that `gated` takes."""
        assert self.gated is not None
        act = self.gated(x, self.gate_up.weight)
        assert isinstance(act, MeasuredRows)
        return act

    @property
    def nbytes(self) -> int:
        return self.gate_up.nbytes + self.down.nbytes
