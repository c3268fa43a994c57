"""Every family, in odd shapes, gives the logits and tokens that transformers gives."""

from pathlib import Path

import pytest
import torch

from tests.cpu.paged import PagedModel, Sequence
from tests.cpu.tiny_models import (
    VARIANTS,
    make_tiny_model,
    random_prompt,
    transformers_greedy,
    transformers_logits,
)
from tradewind.config import ModelConfig
from tradewind.kernels.ops import choose_ops
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model

TOLERANCE = 1e-4
PROMPT_TOKENS = 45


@pytest.fixture(scope="module", params=VARIANTS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / request.param, VARIANTS[request.param])


@pytest.fixture(scope="module", params=[None, "torch"], ids=["fastest", "torch"])
def model(directory: Path, request: pytest.FixtureRequest) -> Model:
    ops = choose_ops("cpu", torch.float32, request.param)
    return load_model(directory, ModelConfig(dtype="float32"), "cpu", ops)


def _prompt(model: Model) -> list[int]:
    return random_prompt(model.spec.vocab, PROMPT_TOKENS)


@pytest.mark.parametrize("chunk_tokens", [PROMPT_TOKENS, 7, 1])
def test_logits_whole_and_in_chunks(directory: Path, model: Model, chunk_tokens: int) -> None:
    prompt = _prompt(model)
    paged, sequence = PagedModel(model, block_tokens=8), Sequence(prompt)
    chunks = [
        paged.step([(sequence, min(chunk_tokens, len(prompt) - start))])[0]
        for start in range(0, len(prompt), chunk_tokens)
    ]
    torch.testing.assert_close(torch.cat(chunks), transformers_logits(directory, prompt), atol=TOLERANCE, rtol=0)


def test_logits_among_others(directory: Path, model: Model) -> None:
    """Decode rows, chunks and whole prompts of different lengths in one step."""
    paged = PagedModel(model, block_tokens=5)
    lengths = [1, 2, 5, 6, 17, 30]
    sequences = [Sequence(random_prompt(model.spec.vocab, n + 3, seed=n)) for n in lengths]
    paged.step([(s, n) for s, n in zip(sequences, lengths, strict=True) if n % 2])
    work = [(s, 1 if s.computed else n) for s, n in zip(sequences, lengths, strict=True)]
    starts = [s.computed for s, _ in work]
    for (sequence, count), start, logits_TV in zip(work, starts, paged.step(work), strict=True):
        expected = transformers_logits(directory, sequence.tokens)[start : start + count]
        torch.testing.assert_close(logits_TV, expected, atol=TOLERANCE, rtol=0)


def test_greedy_tokens_and_their_margin(directory: Path, model: Model) -> None:
    prompt = _prompt(model)[:9]
    expected = transformers_greedy(directory, prompt, 64)
    assert PagedModel(model).greedy(prompt, 64) == expected
    # What makes the comparison safe, and worth something: clear winners, and not one token for ever.
    best = transformers_logits(directory, prompt + expected)[len(prompt) - 1 : -1].topk(2).values
    assert float((best[:, 0] - best[:, 1]).min()) > 10 * TOLERANCE
    assert len(set(expected)) > 8
