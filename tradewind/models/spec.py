"""What a config.json says of a model, checked."""

from dataclasses import dataclass

import torch

from tradewind.layers.rope import RopeSpec


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
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def kv_token_bytes(self) -> int:
        """Bytes of the KV cache per token, over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize
