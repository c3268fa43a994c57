"""Checkpoints whose weights are 8-bit floats already: widened, or multiplied as they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cpu.runner.driving import GREEDY, Session, make_runner, request
from tests.cpu.tiny_models import TinyModel, make_tiny_model
from tradewind.base.errors import CheckpointError
from tradewind.config import ModelConfig
from tradewind.kernels.linear import fp8, fp8_blocks
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import choose_ops
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model

SINGLE = "model.safetensors"
DOWN = "model.layers.1.mlp.down_proj.weight"
KINDS = ("blocks", "rows", "whole")
CONFIGS: dict[str, dict[str, Any]] = {
    "blocks": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "rows": {"quant_method": "compressed-tensors", "format": "float-quantized"},
    "whole": {"quant_method": "fp8", "activation_scheme": "static"},
}


def quantised(weight_ND: Tensor, kind: str) -> tuple[Tensor, Tensor, str]:
    """(values, scales, the end of the scales' name)."""
    if kind == "blocks":
        packed = fp8_blocks.pack(weight_ND, None)
        return packed.data, packed.extras[0], "_scale_inv"
    if kind == "rows":
        packed = fp8.pack(weight_ND, None)
        return packed.data, packed.extras[0].unsqueeze(1), "_scale"
    scale = weight_ND.abs().max() / 448
    return (weight_ND / scale).to(torch.float8_e4m3fn), scale, "_scale"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = TinyModel("llama", heads=2, kv_heads=2, head_dim=64, hidden=160, ffn=256, layers=2, dtype="bfloat16")
    return make_tiny_model(tmp_path_factory.mktemp("stored") / "model", shape)


def store(original: Path, into: Path, kind: str) -> Path:
    """A checkpoint with the linear layers' weights in 8-bit floats, lm_head left in full."""
    shutil.copytree(original, into)
    tensors: dict[str, Tensor] = {}
    for name, tensor in load_file(into / SINGLE).items():
        if not name.endswith("proj.weight"):
            tensors[name] = tensor
            continue
        tensors[name], tensors_scale, ending = quantised(tensor.float(), kind)
        tensors[name + ending] = tensors_scale.contiguous()
        if kind == "whole":
            tensors[name.removesuffix("weight") + "input_scale"] = torch.ones(1)
    save_file(tensors, into / SINGLE)
    config = json.loads((into / "config.json").read_text())
    (into / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIGS[kind]}))
    return into


def load(directory: Path, quantisation: Quantisation | None = None) -> Model:
    ops = choose_ops("cpu", torch.bfloat16, "reference", quantisation=quantisation)
    return load_model(directory, ModelConfig(), "cpu", ops)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_widened_by_their_scales(original: Path, tmp_path: Path, kind: str) -> None:
    directory = store(original, tmp_path / "model", kind)
    whole = load_file(original / SINGLE)[DOWN].float()
    values, scales, _ = quantised(whole, kind)
    block = (128, 128) if kind == "blocks" else (1, whole.shape[1])
    matrix = scales if scales.ndim == 2 else scales.expand(len(whole), 1)
    expected = fp8_blocks.spread(values, matrix, *block).bfloat16()
    assert torch.equal(load(directory).layers[1].feed_forward.down.weight.data, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_stay_as_they_are_where_they_are_multiplied(original: Path, tmp_path: Path, kind: str) -> None:
    directory = store(original, tmp_path / "model", kind)
    group = 128 if kind == "blocks" else 0
    model, widened = load(directory, Quantisation(8, group, is_float=True, stored=True)), load(directory)
    layer = model.layers[1]
    layout = "fp8-blocks" if kind == "blocks" else "fp8"
    assert {layer.attention.qkv.weight.layout, layer.feed_forward.gate_up.weight.layout} == {layout}
    assert model.lm_head.weight.layout == "dense"
    tensors = load_file(directory / SINGLE)
    parts = [tensors[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(layer.attention.qkv.weight.data.float(), torch.cat([part.float() for part in parts]))
    x_TD = torch.randn(3, 160, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name in ("qkv", "out"):
        linear, truth = (getattr(each.layers[1].attention, name) for each in (model, widened))
        given = x_TD[:, : linear.weight.in_features]
        difference = (linear(given) - truth(given)).float().norm() / truth(given).float().norm()
        assert float(difference) < (0.01 if kind == "blocks" else 0.05)
    assert len(Session(make_runner(model)).tokens([request(1, [5, 6, 7], 4, GREEDY)])[1]) == 4


def test_parts_whose_blocks_do_not_join_are_widened(tmp_path: Path) -> None:
    shape = TinyModel("llama", heads=3, kv_heads=1, head_dim=32, hidden=96, ffn=128, layers=2, dtype="bfloat16")
    directory = store(make_tiny_model(tmp_path / "original", shape), tmp_path / "model", "blocks")
    layer = load(directory, Quantisation(8, 128, is_float=True, stored=True)).layers[0]
    assert layer.attention.qkv.weight.layout == "dense"
    assert layer.feed_forward.gate_up.weight.layout == "fp8-blocks"


@pytest.mark.parametrize("kind", KINDS)
def test_scales_that_are_missing_or_wrong_are_named(original: Path, tmp_path: Path, kind: str) -> None:
    directory = store(original, tmp_path / "model", kind)
    name = DOWN + ("_scale_inv" if kind == "blocks" else "_scale")
    tensors = load_file(directory / SINGLE)
    tensors[name] = torch.ones(3, 5)
    save_file(tensors, directory / SINGLE)
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert caught.value.field == name
    del tensors[name]
    save_file(tensors, directory / SINGLE)
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert caught.value.field == DOWN


def test_8_bit_floats_without_a_word_in_the_config_are_refused(original: Path, tmp_path: Path) -> None:
    directory = store(original, tmp_path / "model", "blocks")
    config = json.loads((directory / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        load(directory)
