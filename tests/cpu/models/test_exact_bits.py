"""A row's logits are the same bits alone and among others, at once and in chunks, on one thread and on two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cpu.paged import PagedModel, Sequence
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt
from tradewind.config import ModelConfig
from tradewind.kernels import native
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import choose_ops
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model

TOKENS = 95
# dtype, weights, KV pages
CASES = [
    ("float32", "none", None),
    ("bfloat16", "none", None),
    ("bfloat16", "int8", torch.uint8),
    ("bfloat16", "int4", None),
    ("bfloat16", "lossless", None),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS["qwen3-gqa2"])


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def at_once(model: Model, kv_dtype: torch.dtype | None) -> torch.Tensor:
    paged = PagedModel(model, kv_dtype=kv_dtype)
    return paged.step([(Sequence(random_prompt(model.spec.vocab, TOKENS)), TOKENS)])[0]


def among_others(model: Model, kv_dtype: torch.dtype | None) -> torch.Tensor:
    """In chunks of one to fifty tokens; the others come and go."""
    vocab = model.spec.vocab
    paged = PagedModel(model, kv_dtype=kv_dtype)
    chosen, others = (
        Sequence(random_prompt(vocab, TOKENS)),
        [Sequence(random_prompt(vocab, 60, seed=s)) for s in (1, 2)],
    )
    steps = [
        [(others[0], 7), (chosen, 33)],
        [(chosen, 50), (others[0], 1)],
        [(others[1], 59), (chosen, 1), (others[0], 30)],
        [(others[1], 1), (chosen, 11)],
    ]
    parts = [paged.step(work)[[sequence for sequence, _ in work].index(chosen)] for work in steps]
    return torch.cat(parts)


@pytest.mark.parametrize(("dtype", "quantisation", "kv_dtype"), CASES, ids=str)
@pytest.mark.parametrize("level", list(native.LEVELS))
def test_the_same_bits(
    directory: Path, level: str, dtype: str, quantisation: str, kv_dtype: torch.dtype | None
) -> None:
    if level not in native.runnable():
        pytest.skip(f"{level} cannot run here, or the kernels were not built")
    ops = choose_ops("cpu", getattr(torch, dtype), level=level, quantisation=Quantisation.named(quantisation))
    model = load_model(directory, ModelConfig(dtype=dtype), "cpu", ops)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results += [at_once(model, kv_dtype), among_others(model, kv_dtype)]
    assert results[0].isfinite().all()
    assert all(torch.equal(result, results[0]) for result in results)
