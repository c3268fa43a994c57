"""What `tradewind doctor` says: of this machine, and of GPUs that are not here."""

from pathlib import Path

import pytest
import torch

from tests.cpu.tiny_models import VARIANTS, make_tiny_model
from tradewind.base.errors import ConfigError
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


def test_nothing_is_built_for_a_gpu_that_is_not_here() -> None:
    ops = choose_ops(ABSENT_GPUS["h200"], torch.bfloat16)
    assert ops.fused_linear is None
    assert ops.fused_attention is None
    assert ops.gated_linear is None
    assert {"fused_linear", "fused_attention", "gated_linear"} <= set(ops.chosen)
