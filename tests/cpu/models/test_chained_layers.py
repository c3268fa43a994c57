"""Layers whose products prepare their rows for each other give what layers give op by op."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cpu.paged import PagedModel, Sequence
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt
from tradewind.config import ModelConfig
from tradewind.kernels.chained_linear.reference import ReferenceChainedLinear
from tradewind.kernels.ops import choose_ops
from tradewind.models.registry import load_model


@pytest.mark.parametrize("variant", ["llama-gqa2-rope-llama3", "qwen3-gqa2", "llama-biases"])
def test_chained_layers(variant: str, tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / variant, VARIANTS[variant])
    plain = load_model(directory, ModelConfig(dtype="float32"), "cpu", choose_ops("cpu", torch.float32, "torch"))
    chained = replace(plain, chained=ReferenceChainedLinear(quantises=False))
    prompts = [random_prompt(plain.spec.vocab, count, seed=count) for count in (1, 9, 30)]
    answers = []
    for model in (plain, chained):
        paged, sequences = PagedModel(model, block_tokens=8), [Sequence(list(prompt)) for prompt in prompts]
        first = paged.step([(sequence, len(sequence.tokens)) for sequence in sequences])
        for sequence in sequences:
            sequence.tokens.append(7)
        answers.append(torch.cat([*first, *paged.step([(sequence, 1) for sequence in sequences])]))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-4)
    assert not torch.equal(*answers)  # the two do not go the same way
