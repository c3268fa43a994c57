"""generation_config.json and the ends of sequence."""

import json
from pathlib import Path
from typing import Any

import pytest

from tradewind.base.errors import CheckpointError
from tradewind.text.generation import GenerationDefaults
from tradewind.text.tokenizer import Tokenizer


def load(directory: Path, tokenizer: Tokenizer | None = None, **files: Any) -> GenerationDefaults:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return GenerationDefaults.load(directory, tokenizer)


def test_nothing_is_known_without_files(tmp_path: Path) -> None:
    assert load(tmp_path) == GenerationDefaults()


def test_everything(tmp_path: Path, sentencepiece: Tokenizer) -> None:
    generation = {
        "temperature": 0.6,
        "top_p": 1,
        "top_k": 20,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "max_new_tokens": 256,
        "eos_token_id": [7, 8],
    }
    config = {"eos_token_id": 9, "text_config": {"eos_token_id": [10]}}
    assert load(tmp_path, sentencepiece, generation_config=generation, config=config) == GenerationDefaults(
        temperature=0.6,
        top_p=1.0,
        top_k=20,
        min_p=0.05,
        repetition_penalty=1.1,
        max_new_tokens=256,
        eos_token_ids=frozenset({2, 7, 8, 9, 10}),
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", 1.5),
        ("top_k", True),
        ("max_new_tokens", 0),
        ("eos_token_id", "2"),
        ("eos_token_id", [-1]),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=name) as caught:
        load(tmp_path, generation_config={name: value})
    assert caught.value.field == "generation_config.json"


def test_malformed_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        GenerationDefaults.load(tmp_path)
