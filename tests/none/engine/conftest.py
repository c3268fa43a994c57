"""Engines around the fake runner, and a tokenizer whose every token is one printable character."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fake_engine import CHARACTERS, EOS_ID, command, config_for

from tradewind.engine.client import AsyncEngine
from tradewind.text.tokenizer import Tokenizer

StartEngine = Callable[..., Awaitable[AsyncEngine]]


@pytest.fixture(scope="session")
def tokenizer(model_directory: Path) -> Tokenizer:
    """The tokenizer of `model_directory`."""
    return Tokenizer.load(model_directory)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.json and tokenizer.json, no weights: token i is CHARACTERS[i]; the last one is the end of sequence."""
    directory = tmp_path_factory.mktemp("model")
    vocabulary = {("\u0120" if char == " " else char): index for index, char in enumerate(CHARACTERS)}
    eos = {"id": EOS_ID, "content": "<eos>", "special": True, "normalized": False}
    eos |= {"single_word": False, "lstrip": False, "rstrip": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [eos],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {**vocabulary, "<eos>": EOS_ID}, "merges": []},
    }
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<eos>"}))
    shape = {"vocab_size": EOS_ID + 1, "max_position_embeddings": 512}
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": EOS_ID, **shape}))
    return directory


@pytest_asyncio.fixture
async def start_engine(model_directory: Path) -> AsyncIterator[StartEngine]:
    """`await start_engine(options_of_fake_engine, **settings)`: a ready engine, closed after the test."""
    engines = []

    async def start(options: dict[str, Any] | None = None, **settings: Any) -> AsyncEngine:
        engine = AsyncEngine(config_for(model_directory, **settings), command=command(options or {}))
        engines.append(engine)
        await engine.boot()
        return engine

    yield start
    for engine in engines:
        await engine.close()
