"""A real checkpoint gives its golden tokens."""

import json
from pathlib import Path

import pytest

from tests.cpu.paged import PagedModel
from tradewind.config import ModelConfig
from tradewind.kernels.ops import choose_ops
from tradewind.models.registry import load_model, load_spec


@pytest.mark.parametrize("prefer", [None, "torch", "reference"])
def test_stories260k_gives_its_golden_ids(shared_data: Path, prefer: str | None) -> None:
    directory = shared_data / "models" / "stories260K"
    golden = json.loads((directory / "greedy_200.json").read_text())
    config = ModelConfig(model=str(directory))
    spec = load_spec(directory, config)
    model = load_model(directory, config, "cpu", choose_ops("cpu", spec.dtype, prefer))
    expected = golden["greedy_ids"][:200]
    assert PagedModel(model, block_tokens=16).greedy(golden["prompt_ids"], len(expected)) == expected
