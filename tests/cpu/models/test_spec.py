"""What config.json may say, and what is said when it cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tradewind.base.errors import CheckpointError, ConfigError, ModelNotFound, TradewindError, UnsupportedModel
from tradewind.config import ModelConfig
from tradewind.layers.rope import RopeSpec
from tradewind.models.registry import FAMILIES, load_spec
from tradewind.models.spec import ModelSpec

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 128,
}
ROPE_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def read(folder: Path, config: ModelConfig | None = None, **values: Any) -> ModelSpec:
    (folder / "config.json").write_text(json.dumps(LLAMA | values))
    return load_spec(folder, config or ModelConfig())


def as_family(name: str) -> dict[str, Any]:
    family = next(family for family in FAMILIES if family.name == name)
    return {"architectures": [family.architecture], "model_type": family.model_type}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen3-0.6b", {"family": "Qwen3", "layers": 28, "tied": True, "qk_norm": True, "vocab": 151936}),
        ("qwen3-8b", {"family": "Qwen3", "layers": 36, "tied": False, "hidden": 4096, "kv_heads": 8}),
        ("llama-3.1-8b", {"family": "Llama", "layers": 32, "eos_token_ids": (128001, 128008, 128009)}),
    ],
)
def test_published_configs(shared_data: Path, name: str, expected: dict[str, Any]) -> None:
    spec = load_spec(shared_data / "models" / "configs" / name, ModelConfig())
    assert {key: getattr(spec, key) for key in expected} == expected
    assert (spec.head_dim, spec.dtype, spec.windows) == (128, torch.bfloat16, (None,) * spec.layers)
    if spec.family == "Llama":
        assert spec.rope == RopeSpec(500000.0, "llama3", 8.0, 1.0, 4.0, 8192)
    else:
        assert spec.rope == RopeSpec(1000000.0)


def test_what_is_left_out_has_its_usual_meaning(tmp_path: Path) -> None:
    spec = read(tmp_path)
    assert (spec.kv_heads, spec.head_dim, spec.dtype, spec.tied) == (4, 16, torch.float32, False)
    assert (spec.norm_eps, spec.rope, spec.eos_token_ids) == (1e-6, RopeSpec(10000.0), ())
    assert read(tmp_path, **as_family("Qwen3")).head_dim == 128
    assert read(tmp_path, **as_family("Mistral")).windows == (4096,) * 4
    assert read(tmp_path, **as_family("Mistral"), sliding_window=None).windows == (None,) * 4
    assert read(tmp_path, **as_family("Qwen2"), sliding_window=8).windows == (None,) * 4


def test_old_and_new_spellings_mean_the_same(tmp_path: Path) -> None:
    old = read(tmp_path, torch_dtype="float16", rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2})
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    assert read(tmp_path, dtype="float16", rope_parameters=rope) == old
    assert old.rope == RopeSpec(5e5, "linear", 2.0)


def test_windows_of_upper_layers(tmp_path: Path) -> None:
    qwen = as_family("Qwen2") | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 3}
    assert read(tmp_path, **qwen).windows == (None, None, None, 8)
    kinds = ["sliding_attention", "full_attention"] * 2
    assert read(tmp_path, **qwen, layer_types=kinds).windows == (8, None, 8, None)


def test_model_type_decides_where_there_are_no_architectures(tmp_path: Path) -> None:
    assert read(tmp_path, architectures=None, model_type="qwen2").family == "Qwen2"


def test_dtype_of_the_caller_wins(tmp_path: Path) -> None:
    assert read(tmp_path, ModelConfig(dtype="bfloat16"), torch_dtype="float16").dtype == torch.bfloat16


def test_too_long_a_context_is_refused_with_both_lengths(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"129.*128") as caught:
        read(tmp_path, ModelConfig(max_model_len=129))
    assert caught.value.field == "max_model_len"


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "GPT2LMHeadModel"])
def test_unknown_family_gets_the_list_of_known_ones(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(UnsupportedModel, match=architecture) as caught:
        read(tmp_path, architectures=[architecture])
    assert all(family.architecture in caught.value.message for family in FAMILIES)


@pytest.mark.parametrize(
    ("values", "kind", "field"),
    [
        ({"hidden_size": None}, CheckpointError, "hidden_size"),
        ({"hidden_size": "64"}, CheckpointError, "hidden_size"),
        ({"hidden_size": 64.5}, CheckpointError, "hidden_size"),
        ({"hidden_size": True}, CheckpointError, "hidden_size"),
        ({"hidden_size": 0}, CheckpointError, "hidden_size"),
        ({"num_hidden_layers": -1}, CheckpointError, "num_hidden_layers"),
        ({"vocab_size": [3]}, CheckpointError, "vocab_size"),
        ({"num_attention_heads": 5}, CheckpointError, "num_attention_heads"),
        ({"num_key_value_heads": 3}, CheckpointError, "num_key_value_heads"),
        ({"head_dim": 7}, CheckpointError, "head_dim"),
        ({"rms_norm_eps": "small"}, CheckpointError, "rms_norm_eps"),
        ({"rms_norm_eps": 0}, CheckpointError, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, CheckpointError, "tie_word_embeddings"),
        ({"eos_token_id": ["</s>"]}, CheckpointError, "eos_token_id"),
        ({"architectures": "LlamaForCausalLM"}, CheckpointError, "architectures"),
        ({"torch_dtype": "int8"}, UnsupportedModel, "torch_dtype"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedModel, "quantization_config.quant_method"),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}},
            CheckpointError,
            "quantization_config.weight_block_size",
        ),
        ({"final_logit_softcapping": 30.0}, UnsupportedModel, "final_logit_softcapping"),
        ({"num_local_experts": 8}, UnsupportedModel, "num_local_experts"),
        ({"partial_rotary_factor": 0.5}, UnsupportedModel, "partial_rotary_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, UnsupportedModel, "rope_scaling.rope_type"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, UnsupportedModel, "rope_scaling.type"),
        ({"rope_scaling": {"rope_type": "linear"}}, CheckpointError, "rope_scaling.factor"),
        ({"rope_scaling": "linear"}, CheckpointError, "rope_scaling"),
        ({"rope_scaling": ROPE_LLAMA3 | {"factor": 0}}, CheckpointError, "rope_scaling.factor"),
        ({"rope_scaling": ROPE_LLAMA3 | {"low_freq_factor": 4}}, CheckpointError, "rope_scaling.high_freq_factor"),
        (as_family("Mistral") | {"layer_types": ["full_attention"] * 4}, UnsupportedModel, "layer_types"),
        (
            as_family("Qwen3") | {"use_sliding_window": True, "sliding_window": 4, "layer_types": ["linear"] * 4},
            UnsupportedModel,
            "layer_types",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, values: dict[str, Any], kind: type[TradewindError], field: str) -> None:
    with pytest.raises(kind) as caught:
        read(tmp_path, **values)
    assert caught.value.field == field
    assert field in caught.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"llama"'])
def test_config_that_is_not_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_spec(tmp_path, ModelConfig())


def test_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load_spec(tmp_path, ModelConfig())
