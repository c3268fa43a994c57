"""A family of models: which config.json it reads, and what its tensors are called in a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tradewind.models.config_reader import ConfigReader


@dataclass(frozen=True)
class TensorNames:
    """The names of a decoder's tensors; `layer` is the prefix of those inside layer {layer}."""

    embedding: str
    final_norm: str
    lm_head: str
    layer: str
    input_norm: str
    q: str
    k: str
    v: str
    out: str
    q_norm: str
    k_norm: str
    post_norm: str
    gate: str
    up: str
    down: str


# The names that most families of this shape use.
COMMON_NAMES = TensorNames(
    embedding="model.embed_tokens.weight",
    final_norm="model.norm.weight",
    lm_head="lm_head.weight",
    layer="model.layers.{layer}.",
    input_norm="input_layernorm.weight",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.o_proj",
    q_norm="self_attn.q_norm.weight",
    k_norm="self_attn.k_norm.weight",
    post_norm="post_attention_layernorm.weight",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
)


@dataclass(frozen=True)
class Family:
    """`traits(reader, layers)` gives the fields of ModelSpec that are this family's own: biases, qk_norm, windows.

    `head_dim` and `tied` are what a config.json means that does not say them (head_dim None: hidden / heads).
    """

    name: str
    architecture: str
    model_type: str
    names: TensorNames
    traits: Callable[[ConfigReader, int], dict[str, Any]]
    head_dim: int | None = None
    tied: bool = False


def upper_layer_windows(reader: ConfigReader, layers: int) -> tuple[int | None, ...]:
    """Qwen's rule: with use_sliding_window, the layers from max_window_layers on have a window.

    A list `layer_types`, where there is one, says it layer by layer instead.
    """
    if not reader.flag("use_sliding_window", False) or not reader.has("sliding_window"):
        return (None,) * layers
    window = reader.integer("sliding_window")
    kinds = reader.raw("layer_types")
    if kinds is None:
        full_layers = reader.integer("max_window_layers", 28, low=0)
        kinds = ["full_attention"] * min(full_layers, layers) + ["sliding_attention"] * (layers - full_layers)
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise reader.error("layer_types", kinds, f"a list of {layers} kinds of layer")
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise reader.refuse("layer_types", f"it has {sorted(map(str, unknown))}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
