"""Checkpoints in every form, and every way in which one can be wrong."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cpu.tiny_models import TinyModel, make_tiny_model
from tradewind.base.errors import CheckpointError, ModelNotFound
from tradewind.config import ModelConfig
from tradewind.kernels.ops import choose_ops
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GATE = "model.layers.1.mlp.gate_proj.weight"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "single": make_tiny_model(folder / "single", TinyModel("qwen2", hidden=32)),
        "sharded": make_tiny_model(folder / "sharded", TinyModel("qwen2", hidden=32, max_shard_size="40KB")),
        "tied": make_tiny_model(folder / "tied", TinyModel("qwen3", tied=True)),
    }


@pytest.fixture
def single(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["single"], tmp_path / "single"))


@pytest.fixture
def sharded(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["sharded"], tmp_path / "sharded"))


@pytest.fixture
def tied(originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals["tied"], tmp_path / "tied"))


def load(directory: Path, dtype: str = "float32", **more: Any) -> Model:
    ops = choose_ops("cpu", getattr(torch, dtype), "reference")
    return load_model(directory, ModelConfig(dtype=dtype, **more), "cpu", ops)  # type: ignore[arg-type]


def change_tensors(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE)


def change_header(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the header and leave the data as it is."""
    data = (directory / SINGLE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (directory / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_index(directory: Path, change: Callable[[dict[str, str]], Any]) -> None:
    index = json.loads((directory / INDEX).read_text())
    change(index["weight_map"])
    (directory / INDEX).write_text(json.dumps(index))


# --- what works ------------------------------------------------------------------------------------------------------


def test_merged_weights_hold_the_parts_in_order(single: Path) -> None:
    layer, tensors = load(single).layers[1], load_file(single / SINGLE)
    attention, prefix = layer.attention, "model.layers.1."
    for merged, names in [
        (attention.qkv.weight.data, [f"self_attn.{x}_proj.weight" for x in "qkv"]),
        (attention.qkv.weight.bias_N, [f"self_attn.{x}_proj.bias" for x in "qkv"]),
        (layer.feed_forward.gate_up.weight.data, ["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
    ]:
        assert merged is not None
        assert torch.equal(merged, torch.cat([tensors[prefix + name] for name in names]))


def test_sharded_and_single_give_the_same_model(single: Path, sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 3
    one, other = load(single), load(sharded)
    assert torch.equal(one.embedding.weight_VD, other.embedding.weight_VD)
    for a, b in zip(one.layers, other.layers, strict=True):
        assert torch.equal(a.attention.qkv.weight.data, b.attention.qkv.weight.data)
        assert torch.equal(a.feed_forward.down.weight.data, b.feed_forward.down.weight.data)


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_weights_are_cast(single: Path, stored: torch.dtype, wanted: str) -> None:
    change_tensors(single, lambda tensors: tensors.update({k: v.to(stored) for k, v in tensors.items()}))
    expected = load_file(single / SINGLE)["lm_head.weight"].to(getattr(torch, wanted))
    assert torch.equal(load(single, wanted).lm_head.weight.data, expected)


def test_data_that_is_not_aligned_is_read(single: Path) -> None:
    expected = load(single).lm_head.weight.data
    change_header(single, lambda header: header.setdefault("__metadata__", {}).update(pad="."))
    data = (single / SINGLE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    while (8 + length) % 4 != 1:
        data = struct.pack("<Q", length + 1) + data[8 : 8 + length] + b" " + data[8 + length :]
        length += 1
    (single / SINGLE).write_bytes(data)
    assert torch.equal(load(single).lm_head.weight.data, expected)


def test_tied_output_layer_shares_the_embedding(tied: Path) -> None:
    model = load(tied)
    assert model.lm_head.weight.data.data_ptr() == model.embedding.weight_VD.data_ptr()
    assert model.weights_bytes == sum(tensor.nbytes for tensor in load_file(tied / SINGLE).values())


def test_tied_checkpoint_may_repeat_the_output_layer(tied: Path) -> None:
    change_tensors(tied, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    model = load(tied)
    assert model.lm_head.weight.data.data_ptr() == model.embedding.weight_VD.data_ptr()


def test_computed_tables_of_old_exports_are_ignored(single: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(single, lambda tensors: tensors.update({name: torch.ones(4)}))
    load(single)


def test_progress_counts_every_byte(single: Path) -> None:
    calls: list[tuple[int, int]] = []
    model = load_model(single, ModelConfig(), progress=lambda done, total: calls.append((done, total)))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert len(done) > 20
    assert calls[-1][0] == calls[-1][1]
    assert {total for _, total in calls} == {sum(t.nbytes for t in load_file(single / SINGLE).values())}
    assert model.weights_bytes >= calls[-1][1]


def test_files_are_released_after_loading(single: Path) -> None:
    model = load(single)
    (single / SINGLE).write_bytes(b"")  # would be a bus error on the next read, if pages were still mapped
    assert model.embedding.weight_VD.isfinite().all()


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(directory: Path, field: str, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(directory)
    assert caught.value.field == field
    for word in words:
        assert word in caught.value.message


def test_missing_tensor(single: Path) -> None:
    change_tensors(single, lambda tensors: tensors.pop(GATE))
    refused(single, GATE, "no tensor", GATE)


def test_missing_output_layer_of_an_untied_model(single: Path) -> None:
    change_tensors(single, lambda tensors: tensors.pop("lm_head.weight"))
    refused(single, "lm_head.weight", "no tensor")


def test_unexpected_tensor(single: Path) -> None:
    name = "model.layers.0.self_attn.o_proj.bias"
    change_tensors(single, lambda tensors: tensors.update({name: torch.ones(32)}))
    refused(single, name, "does not have")


def test_layer_too_many(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    config.pop("layer_types", None)
    (single / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\..* \(and 11 more\)"):
        load(single)


def test_wrong_shape(single: Path) -> None:
    change_tensors(single, lambda tensors: tensors.update({GATE: torch.ones(92, 31)}))
    refused(single, GATE, "[92, 31]", "[92, 32]", SINGLE)


def test_wrong_dtype(single: Path) -> None:
    change_tensors(single, lambda tensors: tensors.update({GATE: torch.ones(92, 32, dtype=torch.int8)}))
    refused(single, GATE, "I8", "BF16")


def test_truncated(single: Path) -> None:
    data = (single / SINGLE).read_bytes()
    (single / SINGLE).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match=r"truncated: tensor model\..* ends at byte"):
        load(single)


@pytest.mark.parametrize("kept", [0, 4, 8, 9, 500])
def test_truncated_in_the_header(single: Path, kept: int) -> None:
    (single / SINGLE).write_bytes((single / SINGLE).read_bytes()[:kept])
    refused(single, SINGLE, str(single / SINGLE))


def test_trailing_bytes(single: Path) -> None:
    with (single / SINGLE).open("ab") as file:
        file.write(b"\0" * 12)
    refused(single, SINGLE, "12 bytes at its end")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        struct.pack("<Q", 4) + b"nope" + b"\0" * 64,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
def test_header_garbage(single: Path, content: bytes) -> None:
    (single / SINGLE).write_bytes(content)
    refused(single, SINGLE, "corrupt")


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        {"dtype": "F32", "shape": [92, 32]},
        {"dtype": "F32", "shape": [92, -32], "data_offsets": [0, 11776]},
        {"dtype": "F32", "shape": [92, 32], "data_offsets": [0, 11775]},
        {"dtype": "F32", "shape": [92, 32], "data_offsets": [11776, 0]},
        {"dtype": "F32", "shape": [92, 32], "data_offsets": [0, 11776, 5]},
        {"dtype": 3, "shape": [92, 32], "data_offsets": [0, 11776]},
        {"dtype": "F32", "shape": "92x32", "data_offsets": [0, 11776]},
        {"dtype": "F32", "shape": [True, 32], "data_offsets": [0, 11776]},
    ],
)
def test_header_entry_that_is_wrong(single: Path, fields: Any) -> None:
    change_header(single, lambda header: header.update({GATE: fields}))
    refused(single, GATE, "corrupt", GATE)


def test_overlapping_tensors(single: Path) -> None:
    def overlap(header: dict[str, Any]) -> None:
        begin, end = header[GATE]["data_offsets"]
        header[GATE]["data_offsets"] = [begin - 4, end - 4]

    change_header(single, overlap)
    with pytest.raises(CheckpointError, match="begins at byte"):
        load(single)


def test_missing_shard(sharded: Path) -> None:
    shard = json.loads((sharded / INDEX).read_text())["weight_map"][GATE]
    (sharded / shard).unlink()
    refused(sharded, shard, "missing", shard, INDEX)


def test_index_naming_an_absent_tensor(sharded: Path) -> None:
    shard = json.loads((sharded / INDEX).read_text())["weight_map"][GATE]
    change_index(sharded, lambda places: places.update({"model.ghost.weight": shard}))
    refused(sharded, "model.ghost.weight", INDEX, shard)


@pytest.mark.parametrize("place", ["../evil.safetensors", "/etc/passwd", 3, None])
def test_index_pointing_elsewhere(sharded: Path, place: Any) -> None:
    change_index(sharded, lambda places: places.update({GATE: place}))
    refused(sharded, GATE, "no file name")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_index_garbage(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    refused(sharded, INDEX, INDEX)


def test_pickled_weights_alone(single: Path) -> None:
    (single / SINGLE).rename(single / "pytorch_model.bin")
    refused(single, SINGLE, "pytorch_model.bin", "safetensors")


def test_no_weights(single: Path) -> None:
    (single / SINGLE).unlink()
    refused(single, SINGLE, "neither", "dummy")


def test_tokenizer_alone(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load(tmp_path)


# --- dummy weights ---------------------------------------------------------------------------------------------------


def test_dummy_weights_are_seeded_and_differ_by_tensor(single: Path) -> None:
    (single / SINGLE).unlink()
    one, same = load(single, load_format="dummy"), load(single, load_format="dummy")
    other = load(single, load_format="dummy", weights_seed=1)
    weights = [model.layers[0].attention.qkv.weight.data for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], one.layers[1].attention.qkv.weight.data)
    assert float(weights[0].std()) == pytest.approx(32**-0.5, rel=0.1)
