"""What contexts cost, from a model's shape."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cpu.tiny_models import VARIANTS, make_tiny_model
from tradewind.config import from_flat
from tradewind.kernels.gpu import ABSENT_GPUS
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.models.registry import load_spec
from tradewind.models.spec import ModelSpec
from tradewind.runner.boot import boot_runner
from tradewind.runner.context_cost import context_cost

CPU, GPU = torch.device("cpu"), ABSENT_GPUS["h100"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS["qwen3-gqa2"])


@pytest.fixture(scope="module")
def small(directory: Path) -> ModelSpec:
    """Qwen3-0.6B's shape: a token's products take as many operations as attending to 3,840 tokens."""
    spec = load_spec(directory, from_flat({"model": str(directory)}).model)
    shape = {"layers": 28, "hidden": 1024, "ffn": 3072, "heads": 16, "kv_heads": 8, "head_dim": 128}
    return replace(spec, windows=(None,) * 28, **shape)  # type: ignore[arg-type]


def even_tokens(*arguments: object) -> float:
    """The context at which attention costs as much as the rest."""
    ((cost, _),) = context_cost(*arguments).kinds  # type: ignore[arg-type]
    return 1 / cost


def test_attention_is_slower_than_products_and_much_slower_than_those_in_8_bits(small: ModelSpec) -> None:
    bfloat16, int8, fp8 = torch.bfloat16, Quantisation.named("int8"), Quantisation.named("fp8")
    assert even_tokens(small, CPU, None, bfloat16) == pytest.approx(3840 * 0.8)
    assert even_tokens(small, CPU, Quantisation.named("lossless"), bfloat16) == even_tokens(small, CPU, None, bfloat16)
    assert even_tokens(small, CPU, int8, torch.uint8) == pytest.approx(3840 * 0.27)
    assert even_tokens(small, GPU, int8, bfloat16) == even_tokens(small, GPU, None, bfloat16) == 3840 * 0.5
    assert even_tokens(small, GPU, fp8, bfloat16) == pytest.approx(3840 * 0.2)


def test_few_tokens_pay_for_reading_keys_and_values(small: ModelSpec) -> None:
    assert context_cost(small, CPU, None, torch.bfloat16).least_tokens == 4.5
    assert context_cost(small, CPU, None, torch.uint8).least_tokens == 2.25
    assert context_cost(small, GPU, None, torch.bfloat16).least_tokens == 60
    assert context_cost(replace(small, kv_heads=1), CPU, None, torch.bfloat16).least_tokens == 1


def test_layers_with_windows_are_a_kind_of_their_own(small: ModelSpec) -> None:
    ((whole, _),) = context_cost(small, CPU, None, torch.bfloat16).kinds
    mixed = replace(small, windows=(None, 512, 512, 512) * 7)
    kinds = {window: cost for cost, window in context_cost(mixed, CPU, None, torch.bfloat16).kinds}
    assert kinds == {None: pytest.approx(whole / 4), 512: pytest.approx(whole * 3 / 4)}


def test_a_runner_says_it(directory: Path) -> None:
    config = from_flat({"model": str(directory), "device": "cpu", "memory_bytes": "4MiB"})
    runner = boot_runner(directory, config, lambda _stage, _share: None)
    spec = load_spec(directory, config.model)
    assert runner.info.context_cost == context_cost(spec, CPU, None, torch.float32)
    runner.close()
