"""All layers in one native call give the bits that the ops give one by one."""

import dataclasses
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

CASES = [
    ("float32", None, None),
    ("bfloat16", None, None),
    ("float16", None, None),
    ("bfloat16", "int8", None),
    ("bfloat16", "int4", None),
    ("bfloat16", "lossless", None),
    ("bfloat16", None, torch.uint8),
    ("float16", "int8", torch.uint8),
]


@pytest.fixture(scope="module", params=list(VARIANTS))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if native.load().why_not is not None:
        pytest.skip("the kernels were not built")
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS[request.param])


def logits(model: Model, kv_dtype: torch.dtype | None) -> list[torch.Tensor]:
    """Of three steps: prompts, a chunk beside decode rows, decode rows alone."""
    paged = PagedModel(model, block_tokens=8, kv_dtype=kv_dtype)
    vocab = model.spec.vocab
    long, short = Sequence(random_prompt(vocab, 60)), Sequence(random_prompt(vocab, 9, seed=1))
    steps = [[(long, 33), (short, 7)], [(short, 1), (long, 26)], [(long, 1), (short, 1)]]
    return [logits_TV for work in steps for logits_TV in paged.step(work)]


@pytest.mark.parametrize(("dtype", "quantisation", "kv_dtype"), CASES, ids=str)
def test_the_same_bits(directory: Path, dtype: str, quantisation: str | None, kv_dtype: torch.dtype | None) -> None:
    quantised = None if quantisation is None else Quantisation.named(quantisation)
    ops = choose_ops("cpu", getattr(torch, dtype), quantisation=quantised)
    model = load_model(directory, ModelConfig(dtype=dtype), "cpu", ops)
    assert model.in_one_call is not None
    together = logits(model, kv_dtype)
    one_by_one = logits(dataclasses.replace(model, in_one_call=None), kv_dtype)
    assert all(a.isfinite().all() and torch.equal(a, b) for a, b in zip(together, one_by_one, strict=True))


def test_weights_without_loss_give_the_bits_of_bfloat16(directory: Path) -> None:
    forms = (None, Quantisation.named("lossless"))
    models = [
        load_model(
            directory, ModelConfig(dtype="bfloat16"), "cpu", choose_ops("cpu", torch.bfloat16, quantisation=form)
        )
        for form in forms
    ]
    assert models[1].weights_bytes < 0.9 * models[0].weights_bytes
    assert all(torch.equal(a, b) for a, b in zip(*(logits(model, None) for model in models), strict=True))


def test_only_native_ops_run_in_one_call(directory: Path) -> None:
    ops = choose_ops("cpu", torch.float32, "reference")
    assert load_model(directory, ModelConfig(dtype="float32"), "cpu", ops).in_one_call is None
