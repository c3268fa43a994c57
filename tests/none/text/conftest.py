"""Small tokenizers of each kind, made here, so that these tests need no files."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tradewind.text.pieces import byte_alphabet
from tradewind.text.tokenizer import Tokenizer

SPECIALS = ["<unk>", "<s>", "</s>"]


def added(token_id: int, content: str, special: bool) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def byte_level_json() -> dict[str, Any]:
    """All 256 bytes, a few merges, one special token and one added token that is not special."""
    tokens = [*byte_alphabet(), "he", "hel", "Ġw"]
    vocab = {token: place for place, token in enumerate(tokens)}
    size = len(vocab)
    return {
        "version": "1.0",
        "added_tokens": [added(size, "<|end|>", True), added(size + 1, "<tool call>", False)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"], ["he", "l"], ["Ġ", "w"]]},
    }


def sentencepiece_json() -> dict[str, Any]:
    """Llama 2's arrangement: byte fallback, a dummy leading space that decoding strips, BOS by the post-processor."""
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "a", "b", "▁▁", "é"]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    to_marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "added_tokens": [added(place, token, True) for place, token in enumerate(SPECIALS)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, to_marks]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text, bos, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: place for place, token in enumerate(tokens)},
            "merges": [["▁", "a"], ["▁", "▁"]],
        },
    }


def word_piece_json() -> dict[str, Any]:
    """A decoder that no table can stand for: whether a word gets a space depends on its place."""
    tokens = ["[UNK]", "hello", "wor", "##ld", "!", "[SEP]"]
    return {
        "version": "1.0",
        "added_tokens": [added(0, "[UNK]", True), added(5, "[SEP]", True)],
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: place for place, token in enumerate(tokens)},
        },
    }


def write(directory: Path, tokenizer: dict[str, Any], **files: Any) -> Path:
    """tokenizer.json, and `name=content` as name.json."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in {"tokenizer": tokenizer, **files}.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The functions above, for tests that change what they give."""
    return SimpleNamespace(byte_level_json=byte_level_json, sentencepiece_json=sentencepiece_json, write=write)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write(tmp_path_factory.mktemp("byte_level"), byte_level_json()))


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True}
    directory = write(tmp_path_factory.mktemp("sentencepiece"), sentencepiece_json(), tokenizer_config=config)
    return Tokenizer.load(directory)


@pytest.fixture(scope="session")
def word_piece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write(tmp_path_factory.mktemp("word_piece"), word_piece_json()))
