"""What `tradewind doctor` says: of this machine, and of GPUs that are not here."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from tests.cpu.tiny_models import VARIANTS, make_tiny_model
from tradewind.base.errors import ConfigError
from tradewind.cli import doctor
from tradewind.config import Config, from_flat
from tradewind.kernels.gpu import ABSENT_GPUS
from tradewind.kernels.ops import choose_ops
from tradewind.runner.boot_gpu import GRAPH_SECONDS
from tradewind.runner.survey import survey

OPS = {"linear", "add_rms_norm", "qk_norm_rope_write", "paged_attention", "silu_mul", "embedding", "sample"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS["llama-gqa2-rope-llama3"])


def config(directory: Path, **settings: object) -> Config:
    return from_flat({"model": str(directory), "dtype": "bfloat16", **settings})


def test_every_op_is_explained(directory: Path) -> None:
    found = survey(directory, config(directory, device="cpu"))
    assert found.graphs is None
    assert set(found.chosen) == {*OPS, "mask_logits"}
    assert all(chosen.reason for chosen in found.chosen.values())


@pytest.mark.parametrize("name", ABSENT_GPUS)
def test_a_gpu_that_is_not_here_is_explained(directory: Path, name: str) -> None:
    """Without Triton or a GPU being touched, and within its own memory."""
    found = survey(directory, config(directory), name)
    around = {"mask_logits", "step_inputs", "host_copy"}
    assert set(found.chosen) == {*OPS, *around, "fused_linear", "fused_attention", "gated_linear"}
    assert {found.chosen[op].kind for op in OPS - {"embedding"}} == {"triton"}
    assert ABSENT_GPUS[name].name in found.described
    assert found.free_bytes == ABSENT_GPUS[name].memory_bytes
    assert found.graphs is not None
    assert (found.graphs.wanted > 50, found.graphs.budget.seconds) == (True, GRAPH_SECONDS)
    exact = survey(directory, config(directory, exact=True), name).chosen
    assert "no context split" in exact["paged_attention"].reason
    assert not {"fused_attention", "gated_linear"} & set(exact)


def test_what_a_gpu_lacks_is_said(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"8\.9"):
        survey(directory, config(directory, kv_dtype="fp8"), "a100")
    found = survey(directory, config(directory, quantization="fp8"), "A100")
    assert "8.9" in found.chosen["linear"].reason
    assert survey(directory, config(directory, quantization="fp8"), "l40s").chosen["linear"].kind == "triton"
    with pytest.raises(ConfigError, match="h200"):
        survey(directory, config(directory), "h1000")
    assert survey(directory, config(directory, graphs=False), "h100").graphs is None


LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}  # fmt: skip
COPY_BYTES = 3 * (32 * (4096 * 128 * 2 * 40 + 3 * 4096 * 14336) + 128256 * 4096) // 2


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "setting", "expected"),
    [("h200", "auto", True), ("h200", "off", False), ("h100", "auto", False), ("h100", "on", True)],
)
def test_a_copy_for_one_row_is_kept_where_memory_allows_it(
    llama: Path, name: str, setting: str, expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = config(llama, one_row_copy=setting, load_format="dummy")
    found, without = survey(llama, asked, name), survey(llama, config(llama, one_row_copy="off"), name)
    assert found.copy_bytes == (COPY_BYTES if expected else 0)
    assert found.weights_bytes == without.weights_bytes + found.copy_bytes
    assert found.ask.free_bytes == without.ask.free_bytes - found.copy_bytes
    assert ("copy of bfloat16 in 12 bits" in found.chosen["linear"].reason) == expected
    options = {"model": str(llama), "load_format": "dummy", "one_row_copy": setting}
    doctor.run(argparse.Namespace(**options, gpu=name))
    said = " ".join(capsys.readouterr().out.split())  # its lines are folded
    assert ("10.48 GiB of copies in 12 bits for steps of one row" in said) == expected


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"quantization": "fp8"}, "they are quantised"),
        ({"quantization": "lossless"}, "they are quantised"),
        ({"dtype": "float16"}, "they are in float16"),
        ({"exact": True}, "--exact is given"),
        ({"device": "cpu"}, "no GPU is used"),
    ],
)
def test_a_copy_for_one_row_is_refused_where_it_cannot_be(llama: Path, settings: dict[str, object], why: str) -> None:
    gpu = None if "device" in settings else "h200"
    found = survey(llama, config(llama, **settings), gpu)
    assert found.copy_bytes == 0
    with pytest.raises(ConfigError, match=f"--one-row-copy on is for bfloat16 weights on a GPU.*but {why}") as caught:
        survey(llama, config(llama, one_row_copy="on", **settings), gpu)
    assert caught.value.field == "one_row_copy"


def test_a_copy_for_one_row_is_not_kept_of_stored_8_bit_floats(llama: Path) -> None:
    stored = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (llama / "config.json").write_text(json.dumps(LLAMA_8B | stored))
    for name in ("h200", "a100"):
        assert survey(llama, config(llama), name).copy_bytes == 0
        with pytest.raises(ConfigError, match="they are quantised"):
            survey(llama, config(llama, one_row_copy="on"), name)


def test_nothing_is_built_for_a_gpu_that_is_not_here() -> None:
    ops = choose_ops(ABSENT_GPUS["h200"], torch.bfloat16)
    assert ops.fused_linear is None
    assert ops.fused_attention is None
    assert ops.gated_linear is None
    assert {"fused_linear", "fused_attention", "gated_linear"} <= set(ops.chosen)
