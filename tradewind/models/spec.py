"""What a config.json says of a model, checked."""

from dataclasses import dataclass

import torch

from tradewind.kernels.pages import PoolShape
from tradewind.layers.rope import RopeSpec


@dataclass(frozen=True)
class StoredFp8:
    """The checkpoint has weights in 8-bit floats.

    `block`: outputs and inputs that share a scale; None: a scale for each output, or one for a whole weight.
    """

    block: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The shape of a decoder, whatever its family. Made by `tradewind.models.registry.load_spec`.

    `windows`: for each layer the sliding window in tokens, or None. `dtype` is that of weights and activations: the
    config's own, unless the caller asked for another.
    """

    family: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_position: int
    dtype: torch.dtype
    norm_eps: float
    rope: RopeSpec
    tied: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    stored: StoredFp8 | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def pool_shape(self, num_blocks: int, block_tokens: int) -> PoolShape:
        """The dimensions of a KV pool for this model."""
        return PoolShape(num_blocks, self.layers, self.kv_heads, block_tokens, self.head_dim)
