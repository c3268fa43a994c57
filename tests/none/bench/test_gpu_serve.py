"""The serving part of `bench gpu`, from a server whose device computes nothing."""

import argparse
import json
from pathlib import Path

import pytest

from tradewind.bench import gpu_serve

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 3000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def test_serving_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_serve, "_TOKENS_OUT", 40)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    options = argparse.Namespace(config=tmp_path, concurrency=[1, 2], seed=0)
    settings = {"load_format": "dummy", "device": "fake", "prefix_caching": False}
    rows = list(gpu_serve.serve(options, "fp8", settings))
    assert [row["load"] for row in rows] == [1, 2]
    for row in rows:
        assert (row["failed"], row["kernels compiled"]) == (0, 0)
        assert row["requests"] == 3 * row["load"]
        # Every token is a word, so that each is an event of its own: as many gaps as tokens, or nearly.
        assert row["ITL p50 ms"] < 3 * row["TPOT p50 ms"]
