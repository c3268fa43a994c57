"""The families there are, and how a directory becomes a model."""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from tradewind.base.errors import ConfigError, UnsupportedModel
from tradewind.config import ModelConfig
from tradewind.kernels.ops import Ops, choose_ops
from tradewind.layers.rope import RopeSpec
from tradewind.models.checkpoint import Checkpoint
from tradewind.models.config_reader import ConfigReader
from tradewind.models.declaration import declare
from tradewind.models.decoder import Model, build
from tradewind.models.dummy import DummyWeights
from tradewind.models.family import Family
from tradewind.models.llama import LLAMA
from tradewind.models.loader import Loader, WeightSource
from tradewind.models.mistral import MISTRAL
from tradewind.models.qwen2 import QWEN2
from tradewind.models.qwen3 import QWEN3
from tradewind.models.spec import ModelSpec, StoredFp8

FAMILIES: tuple[Family, ...] = (LLAMA, MISTRAL, QWEN2, QWEN3)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Fields that change what a model computes and that no family here has: refused unless they are null, false or 0.
_REFUSED = {
    "compression_config": "compressed checkpoints cannot be loaded; use one in float32, bfloat16 or float16",
    "attn_logit_softcapping": "no family here has it",
    "final_logit_softcapping": "no family here has it",
    "num_experts": "mixtures of experts are not supported",
    "num_local_experts": "mixtures of experts are not supported",
}


def load_spec(directory: Path, config: ModelConfig) -> ModelSpec:
    """Read and check directory/config.json. `config.dtype` overrides the model's own dtype.

    Raises ModelNotFound (no config.json), CheckpointError (a field is missing or wrong), UnsupportedModel (the family
    or a feature is not supported) or ConfigError (`config` asks for what the model cannot do).
    """
    reader = ConfigReader.load(directory)
    family = _find_family(reader)
    spec = read_spec(reader, family, None if config.dtype == "auto" else DTYPES[config.dtype])
    if config.max_model_len is not None and config.max_model_len > spec.max_position:
        raise ConfigError(
            f"max_model_len is {config.max_model_len}, but the model was made for at most {spec.max_position} tokens",
            field="max_model_len",
        )
    return spec


def load_model(
    directory: Path,
    config: ModelConfig,
    device: torch.device | str = "cpu",
    ops: Ops | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Build the model of a directory: its own weights, or random ones if `config.load_format` is "dummy".

    `ops` must have been chosen for the device and the spec's dtype; None chooses them. `progress(done_bytes,
    total_bytes)` is called as weights are read. Raises what `load_spec` raises, and CheckpointError naming the tensor
    or file. Memory: one copy of the weights remains, and while loading at most the largest weight more.
    """
    spec = load_spec(directory, config)
    device = torch.device(device)
    ops = ops or choose_ops(device, spec.dtype)
    declaration = declare(spec, _family_named(spec.family).names)
    positions = min(spec.max_position, config.max_model_len or spec.max_position)
    source: WeightSource
    if config.load_format == "dummy":
        source = DummyWeights(declaration, config.weights_seed)
        return build(spec, declaration, Loader(source, declaration, spec.dtype, device, ops, progress), positions)
    with Checkpoint.open(directory, spec.stored) as checkpoint:
        checkpoint.verify(declaration)
        return build(spec, declaration, Loader(checkpoint, declaration, spec.dtype, device, ops, progress), positions)


def read_spec(reader: ConfigReader, family: Family, dtype: torch.dtype | None) -> ModelSpec:
    """The spec of one family's config.json; `dtype` None takes the config's own."""
    _refuse_unsupported(reader)
    hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
    kv_heads = reader.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise reader.error("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, which is {heads}")
    layers = reader.integer("num_hidden_layers")
    max_position = reader.integer("max_position_embeddings")
    return ModelSpec(
        family=family.name,
        layers=layers,
        hidden=hidden,
        ffn=reader.integer("intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_head_dim(reader, family, hidden, heads),
        vocab=reader.integer("vocab_size"),
        max_position=max_position,
        dtype=dtype or _own_dtype(reader),
        norm_eps=reader.number("rms_norm_eps", 1e-6),
        rope=_read_rope(reader, max_position),
        tied=reader.flag("tie_word_embeddings", family.tied),
        bos_token_id=next(iter(reader.ids("bos_token_id")), None),
        eos_token_ids=reader.ids("eos_token_id"),
        stored=_read_stored(reader),
        **family.traits(reader, layers),
    )


def _find_family(reader: ConfigReader) -> Family:
    """By the first of `architectures`, or by `model_type` where there are none."""
    architectures = reader.raw("architectures") or []
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        raise reader.error("architectures", architectures, "a list of names")
    model_type = reader.raw("model_type")
    for family in FAMILIES:
        if architectures[0] == family.architecture if architectures else model_type == family.model_type:
            return family
    asked = architectures[0] if architectures else f"model_type {model_type!r}"
    known = ", ".join(f"{family.name} ({family.architecture})" for family in FAMILIES)
    raise UnsupportedModel(f"models of {asked} are not supported; supported are {known}", field="architectures")


def _family_named(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def _refuse_unsupported(reader: ConfigReader) -> None:
    """Refuse what would be computed wrongly if it were ignored."""
    for name, why in _REFUSED.items():
        if reader.raw(name):
            raise reader.refuse(name, why)
    if reader.text("hidden_act", "silu") not in ("silu", "swish"):
        raise reader.refuse("hidden_act", "the activation must be silu")


def _head_dim(reader: ConfigReader, family: Family, hidden: int, heads: int) -> int:
    """K: given, or the family's usual one, or hidden / heads."""
    if not reader.has("head_dim") and family.head_dim is None and hidden % heads:
        raise reader.error("num_attention_heads", heads, f"a divisor of hidden_size, which is {hidden}")
    head_dim = reader.integer("head_dim", family.head_dim or hidden // heads)
    if head_dim % 2:
        raise reader.error("head_dim", head_dim, "even")
    return head_dim


def _own_dtype(reader: ConfigReader) -> torch.dtype:
    """`dtype` or, in older files, `torch_dtype`."""
    field = "dtype" if reader.has("dtype") else "torch_dtype"
    name = reader.text(field, "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise reader.refuse(field, f"it must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _read_stored(reader: ConfigReader) -> StoredFp8 | None:
    """`quantization_config`: 8-bit floats, as transformers and vLLM write them ("fp8") or as compressed-tensors."""
    if not reader.raw("quantization_config"):
        return None
    inner = reader.inside("quantization_config")
    method = inner.text("quant_method", "none")
    if method == "fp8":
        sizes = inner.raw("weight_block_size")
        if sizes is None:
            return StoredFp8(None)
        if not (isinstance(sizes, list) and len(sizes) == 2 and all(type(size) is int and size > 0 for size in sizes)):
            raise inner.error("weight_block_size", sizes, "a list of two sizes")
        return StoredFp8((sizes[0], sizes[1]))
    if method == "compressed-tensors" and inner.text("format", "none") == "float-quantized":
        return StoredFp8(None)
    raise inner.refuse("quant_method", "of quantised checkpoints, only those in 8-bit floats can be loaded")


def _read_rope(reader: ConfigReader, max_position: int) -> RopeSpec:
    """`rope_parameters` or, in older files, `rope_theta` and `rope_scaling`."""
    inner = reader.inside("rope_parameters" if reader.has("rope_parameters") else "rope_scaling")
    theta = inner.number("rope_theta", reader.number("rope_theta", 10000.0))
    for place in (reader, inner):
        if place.has("partial_rotary_factor") and place.number("partial_rotary_factor") != 1:
            raise place.refuse("partial_rotary_factor", "the whole head must be rotated")
    field = "rope_type" if inner.has("rope_type") else "type"
    kind = inner.text(field, "default")
    if kind == "default":
        return RopeSpec(theta)
    if kind == "linear":
        return RopeSpec(theta, "linear", inner.number("factor"))
    if kind == "llama3":
        spec = RopeSpec(
            theta,
            "llama3",
            inner.number("factor"),
            inner.number("low_freq_factor"),
            inner.number("high_freq_factor"),
            inner.integer("original_max_position_embeddings", max_position),
        )
        if math.isclose(spec.low_freq_factor, spec.high_freq_factor):
            raise inner.error("high_freq_factor", spec.high_freq_factor, "different from low_freq_factor")
        return spec
    raise inner.refuse(field, "the supported rope types are default, linear and llama3")
