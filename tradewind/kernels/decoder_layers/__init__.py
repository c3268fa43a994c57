"""decoder_layers: all layers of a decoder in one call, where an implementation can do that.

It computes what the other ops compute one after the other, to the bit; what it saves is the way back to Python after
each of them, some 250 times a step.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.pages import KVPool
from tradewind.kernels.rows import HeadShape, Rows


@dataclass(frozen=True)
class LayerWeights:
    """One layer: norm, qkv, attention, out, norm, gate_up, silu_mul, down. `window` in tokens, None for all.

    The linear weights are as the native `linear` packed them. q_norm_K and k_norm_K: both or neither.
    """

    input_norm_D: Tensor
    qkv: LinearWeight
    q_norm_K: Tensor | None
    k_norm_K: Tensor | None
    window: int | None
    out: LinearWeight
    post_norm_D: Tensor
    gate_up: LinearWeight
    down: LinearWeight


@dataclass(frozen=True)
class LayerShape:
    """What all layers share. `eps` is that of all norms."""

    heads: HeadShape
    hidden: int
    ffn: int
    cos_sin_PK: Tensor
    eps: float
    scale: float


class DecoderLayers(Protocol):
    """`layers(x_TD, rows, pool) -> (x_TD, residual_TD)`.

    x_TD: the embedded tokens, contiguous, given up by the caller. The results are for the final add_rms_norm. Keys and
    values of the step's tokens are written to the pool.
    """

    def __call__(self, x_TD: Tensor, rows: Rows, pool: KVPool) -> tuple[Tensor, Tensor]: ...


class BindLayers(Protocol):
    """`bind(layers, shape) -> DecoderLayers`: done once, at load. The weights must not move afterwards."""

    def __call__(self, layers: tuple[LayerWeights, ...], shape: LayerShape) -> DecoderLayers: ...
