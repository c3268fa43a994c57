"""Loading, encoding, decoding and the bytes of tokens."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tradewind.base.errors import CheckpointError, RequestError
from tradewind.text.tokenizer import Tokenizer


def test_byte_level_round_trip(byte_level: Tokenizer) -> None:
    text = "hello wörld 🦙\n\t\x00 <tool call>"
    assert byte_level.decode(byte_level.encode(text)) == text


def test_sentencepiece_round_trip(sentencepiece: Tokenizer) -> None:
    text = " a b  é ü🦙\n"
    ids = sentencepiece.encode(text)
    assert ids[0] == sentencepiece.bos_token_id == 1
    assert sentencepiece.decode(ids) == text


def test_token_bytes_are_the_bytes_in_the_text(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    for tokenizer in (byte_level, sentencepiece):
        ids = tokenizer.encode("a ü🦙", add_special_tokens=False)
        assert b"".join(map(tokenizer.token_bytes, ids)).decode().strip() == "a ü🦙"
    assert sentencepiece.token_bytes(3 + 0xC3) == b"\xc3"
    assert sentencepiece.token_text(3 + 0xC3) == "\ufffd"
    assert sentencepiece.token_text(2) == "</s>"


def test_token_bytes_of_a_decoder_without_a_table(word_piece: Tokenizer) -> None:
    assert [word_piece.token_bytes(token_id) for token_id in (1, 3, 4)] == [b" hello", b"ld", b" !"]
    assert word_piece.decode([1, 2, 3, 5, 4]) == "hello world !"


def test_unknown_ids_have_no_text(byte_level: Tokenizer, word_piece: Tokenizer) -> None:
    unknown = [10**6, -1, 2**40]
    for tokenizer in (byte_level, word_piece):
        assert tokenizer.decode(unknown) == ""
        assert [tokenizer.token_bytes(token_id) for token_id in unknown] == [b"", b"", b""]
    assert not set(unknown) & set(byte_level.pieces(False))


def test_special_tokens_are_skipped_or_not(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("he<|end|>y<tool call>")
    assert byte_level.decode(ids) == "hey<tool call>"
    assert byte_level.decode(ids, skip_special_tokens=False) == "he<|end|>y<tool call>"
    assert byte_level.special_ids == {259}
    assert byte_level.vocab_size == 261


def test_bos_is_added_once(tmp_path: Path, sentencepiece: Tokenizer, tiny: Any) -> None:
    assert sentencepiece.encode("a") == [1, *sentencepiece.encode("a", add_special_tokens=False)]
    without = {**tiny.sentencepiece_json(), "post_processor": None}
    config = {"bos_token": "<s>", "add_bos_token": True}
    tokenizer = Tokenizer.load(tiny.write(tmp_path, without, tokenizer_config=config))
    plain = tokenizer.encode("a", add_special_tokens=False)
    assert tokenizer.encode("a") == [1, *plain]
    assert tokenizer.encode_batch(["a", ""]) == [[1, *plain], tokenizer.encode("")]
    assert tokenizer.encode_batch(["a"], add_special_tokens=False) == [plain]
    assert tokenizer.encode("<s>a")[:2] != [1, 1]
    never = Tokenizer.load(tiny.write(tmp_path / "never", without, tokenizer_config={"bos_token": "<s>"}))
    assert never.encode("a") == plain


def test_truncation_and_padding_are_ignored(tmp_path: Path, tiny: Any) -> None:
    source = tiny.byte_level_json() | {
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    }
    assert len(Tokenizer.load(tiny.write(tmp_path, source)).encode("xyz xyz")) == 7


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "🦙\udc00"])
def test_lone_surrogates_are_refused(byte_level: Tokenizer, text: str) -> None:
    for call in (lambda: byte_level.encode(text), lambda: byte_level.encode_batch(["a", text])):
        with pytest.raises(RequestError, match=r"lone surrogate U\+D[8-F]") as caught:
            call()
        assert caught.value.field == "prompt"


def test_what_is_not_text_is_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(RequestError, match="must be text"):
        byte_level.encode(5)  # type: ignore[arg-type]


BROKEN: list[tuple[str, str | None]] = [
    ("tokenizer.json", None),
    ("tokenizer.json", "{"),
    ("tokenizer.json", "{}"),
    ("tokenizer.json", "[]"),
    ("tokenizer_config.json", "{"),
    ("tokenizer_config.json", "[]"),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "y"}}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"7": {"content": "<late>"}}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
    ("tokenizer_config.json", '{"chat_template": 5}'),
    ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}'),
    ("tokenizer_config.json", '{"chat_template": ["text"]}'),
    ("special_tokens_map.json", "nonsense"),
    ("added_tokens.json", '{"<a>": "1"}'),
    ("chat_template.json", '{"chat_template": [null]}'),
]


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_broken_files_are_named(tmp_path: Path, name: str, content: str | None, tiny: Any) -> None:
    tiny.write(tmp_path, tiny.byte_level_json())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.field == name
    assert name in caught.value.message


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path, tiny: Any) -> None:
    tiny.write(tmp_path, tiny.byte_level_json())
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a valid tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read"):
        Tokenizer.load(tmp_path)


def test_tokens_of_the_other_files(tmp_path: Path, tiny: Any) -> None:
    config = {
        "added_tokens_decoder": {"261": {"content": "<late>", "special": True}, "260": {"content": "<tool call>"}},
        "eos_token": "<late>",
        "additional_special_tokens": ["<tool call>"],
    }
    special = {"bos_token": {"content": "<|end|>"}, "eos_token": "ignored"}
    files: dict[str, Any] = {"tokenizer_config": config, "special_tokens_map": special, "added_tokens": {"<x>": 262}}
    tokenizer = Tokenizer.load(tiny.write(tmp_path, tiny.byte_level_json(), **files))
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|end|>", 259)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<late>", 261)
    assert tokenizer.special_ids == {259, 260, 261}
    assert tokenizer.encode("<late><x>") == [261, 262]
    assert tokenizer.decode([261, 262]) == "<x>"


def test_where_the_chat_template_comes_from(tmp_path: Path, tiny: Any) -> None:
    def rendered(tools: list[Any] | None = None, override: Path | None = None) -> str:
        template = Tokenizer.load(tmp_path, chat_template=override).chat_template
        assert template is not None
        return template.render([{"role": "user", "content": "x"}], tools=tools)

    tiny.write(tmp_path, tiny.byte_level_json())
    assert Tokenizer.load(tmp_path).chat_template is None
    tiny.write(
        tmp_path,
        tiny.byte_level_json(),
        tokenizer_config={"chat_template": "one {{ bos_token }}", "bos_token": "<|end|>"},
    )
    assert rendered() == "one <|end|>"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    tiny.write(tmp_path, tiny.byte_level_json(), tokenizer_config={"chat_template": named})
    assert (rendered(), rendered(tools=[{}])) == ("plain", "tools")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert rendered() == "file"
    (tmp_path / "mine.jinja").write_text("mine")
    assert rendered(override=tmp_path / "mine.jinja") == "mine"
    (tmp_path / "mine.jinja").write_text("{% if %}")
    with pytest.raises(CheckpointError, match=r"line 1") as caught:
        rendered(override=tmp_path / "mine.jinja")
    assert caught.value.field == "chat_template"


def test_importing_the_package_loads_no_library() -> None:
    modules = "tokenizer, detokenizer, stops, generation"
    code = f"import sys; from tradewind.text import {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"jinja2", "tokenizers", "torch", "numpy", "transformers"} & set(loaded)
