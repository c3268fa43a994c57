"""A decode that goes on asks for no large memory: the logits of all steps lie in the same place."""

from pathlib import Path

import pytest
import torch

from tests.cpu.runner.driving import Session, load, make_runner, request
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt
from tradewind.kernels import native, sample
from tradewind.kernels.sample import SampleRows


def test_the_logits_of_all_steps_lie_in_the_same_place(tmp_path: Path) -> None:
    model = load(make_tiny_model(tmp_path / "model", VARIANTS["qwen3-gqa2"]))
    if model.ops.fill_logits is None:
        pytest.skip(f"the logits are new tensors: {native.load().why_not}")
    draw, places = sample.choose(torch.device("cpu")).run, set()

    def recording(logits_RV: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        places.add(logits_RV.data_ptr())
        return draw(logits_RV, rows)

    requests = [request(number, random_prompt(model.spec.vocab, 9 * number, number), 10 * number) for number in (1, 2)]
    tokens = Session(make_runner(model, draw=recording)).tokens(requests)
    assert len(places) == 1
    assert tokens == Session(make_runner(model)).tokens(requests)
