"""A model whose bfloat16 weights are kept a second time for one row: what it takes, and which layers are alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cpu.tiny_models import TinyModel, make_tiny_model
from tradewind.config import ModelConfig
from tradewind.kernels.linear import Pack, lossless, reference
from tradewind.kernels.ops import choose_ops
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model

SHAPE = TinyModel(heads=2, kv_heads=1, head_dim=128, hidden=256, ffn=512, layers=3, dtype="bfloat16")


def load(directory: Path, pack: Pack) -> Model:
    ops = replace(choose_ops("cpu", torch.bfloat16, "reference"), pack=pack)
    return load_model(directory, ModelConfig(dtype="bfloat16"), "cpu", ops)


@pytest.mark.parametrize("tied", [False, True])
def test_copies_are_counted_beside_the_weights(tmp_path: Path, tied: bool) -> None:
    directory = make_tiny_model(tmp_path, replace(SHAPE, tied=tied))
    plain, copied = load(directory, reference.pack), load(directory, lossless.pack_beside)
    linears = [copied.lm_head, *(linear for layer in copied.layers for linear in layer.linears)]
    numbers = sum(linear.weight.data.numel() for linear in linears)
    assert numbers * 1.5 < copied.copy_bytes < numbers * 1.5 * 1.15
    assert copied.weights_bytes == plain.weights_bytes + copied.copy_bytes
    assert plain.copy_bytes == 0


def test_layers_whose_copies_differ_in_form_are_not_alike(tmp_path: Path) -> None:
    """Other places for exceptions are another kernel, and so is a weight without a copy."""
    model = load(make_tiny_model(tmp_path, SHAPE), lossless.pack_beside)
    assert len(model.thin.layers) == 1
    first, second, third = model.layers
    weight_ND = second.feed_forward.down.weight.data.clone()
    weight_ND[0, :12] = 1e-12
    places = lossless.pack_beside(weight_ND, None)
    alone = reference.pack(third.feed_forward.down.weight.data, None)
    layers = tuple(
        replace(layer, feed_forward=replace(layer.feed_forward, down=replace(layer.feed_forward.down, weight=weight)))
        for layer, weight in ((second, places), (third, alone))
    )
    assert places.one_row_copy is not None
    assert len(replace(model, layers=(first, *layers)).thin.layers) == 3
