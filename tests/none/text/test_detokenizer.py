"""The stream's text equals the full decode, whatever the tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.text.detokenizer import Detokenizer
from tradewind.text.pieces import DecoderKind, DecoderSpec, take_characters
from tradewind.text.tokenizer import Tokenizer

KINDS = ("byte_level", "sentencepiece", "word_piece")
UNFINISHED = 3  # <0xNN> of the tiny SentencePiece vocabulary is token 3 + NN


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def stream(detokenizer: Detokenizer, ids: list[int]) -> str:
    return "".join([detokenizer.push(token_id) for token_id in ids]) + detokenizer.flush()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_pushes_join_to_the_full_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 1), max_size=40))
    skip = data.draw(st.booleans())
    assert stream(Detokenizer(tokenizer, [], skip), ids) == tokenizer.decode(ids, skip)


def test_skipped_tokens_do_not_push_the_prompts_words_out_of_sight(word_piece: Tokenizer) -> None:
    skipped, hello = 0, 1
    detokenizer = Detokenizer(word_piece, [hello, *[skipped] * 20], skip_special_tokens=True)
    assert stream(detokenizer, [skipped] * 20 + [hello]) == " hello"


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_with_a_prompt_the_stream_is_what_the_full_decode_adds(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    skip = data.draw(st.booleans())
    cut = data.draw(st.integers(0, len(ids)))
    prompt = Detokenizer(tokenizer, [], skip)
    before = "".join([prompt.push(token_id) for token_id in ids[:cut]])
    assert before + stream(Detokenizer(tokenizer, ids[:cut], skip), ids[cut:]) == tokenizer.decode(ids, skip)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_the_full_decode_is_the_librarys(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 1), max_size=40))
    skip = data.draw(st.booleans())
    if tokenizer.decoder.kind is DecoderKind.SENTENCEPIECE:
        ids = without_mixed_runs(ids)
    assert tokenizer.decode(ids, skip) == tokenizer.decode_by_library(ids, skip)


def without_mixed_runs(ids: list[int]) -> list[int]:
    """Keep of the byte tokens only continuation bytes: never valid, so never valid in part."""
    first, last = UNFINISHED, UNFINISHED + 0xFF
    return [token_id for token_id in ids if not first <= token_id <= last or 0x80 <= token_id - first < 0xC0]


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=30))
def test_any_text_comes_back(byte_level: Tokenizer, sentencepiece: Tokenizer, text: str) -> None:
    for tokenizer in (byte_level, sentencepiece):
        ids = tokenizer.encode(text)
        if "▁" not in text:  # SentencePiece's own mark for a space cannot be told from one
            assert stream(Detokenizer(tokenizer), ids) == text


def test_a_character_is_given_out_when_it_is_whole(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    for tokenizer in (byte_level, sentencepiece):
        ids = tokenizer.encode("a🦙b", add_special_tokens=False)
        detokenizer = Detokenizer(tokenizer, [ids[0]])
        assert [detokenizer.push(token_id) for token_id in ids[1:]] == ["", "", "", "🦙", "b"]
        assert detokenizer.flush() == ""


def test_a_character_that_the_prompt_began_is_finished(byte_level: Tokenizer) -> None:
    ids = byte_level.encode("a🦙b")
    for cut in range(1, len(ids)):
        expected = "b" if cut == 5 else "🦙b"
        assert stream(Detokenizer(byte_level, ids[:cut]), ids[cut:]) == expected


def test_a_character_that_is_not_finished(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    ids = byte_level.encode("🦙")[:2]
    assert stream(Detokenizer(byte_level), ids) == "\ufffd"
    assert stream(Detokenizer(byte_level), [*ids, *byte_level.encode("b")]) == "\ufffdb"
    assert stream(Detokenizer(sentencepiece), [3 + 0xF0, 3 + 0x9F]) == "\ufffd\ufffd"


def test_valid_characters_among_invalid_bytes_survive(sentencepiece: Tokenizer) -> None:
    assert stream(Detokenizer(sentencepiece), [3 + byte for byte in "é".encode() + b"\xff"]) == "é\ufffd"


def test_leading_space(sentencepiece: Tokenizer) -> None:
    a = sentencepiece.encode("a", add_special_tokens=False)
    assert [sentencepiece.token_bytes(token_id) for token_id in a] == [b" a"]
    assert stream(Detokenizer(sentencepiece), a * 2) == "a a"
    assert stream(Detokenizer(sentencepiece, [1]), a) == "a"  # BOS has no text
    assert stream(Detokenizer(sentencepiece, [1], skip_special_tokens=False), a) == " a"
    assert stream(Detokenizer(sentencepiece, a), a) == " a"
    two_spaces = sentencepiece.encode(" ", add_special_tokens=False)
    assert stream(Detokenizer(sentencepiece), [*two_spaces, *a]) == "  a"


def test_words_by_the_library(word_piece: Tokenizer) -> None:
    detokenizer = Detokenizer(word_piece, [1])
    assert [detokenizer.push(token_id) for token_id in (2, 3, 5, 4)] == [" wor", "ld", "", " !"]


def test_known_decoders() -> None:
    assert DecoderSpec.parse(None).kind is DecoderKind.OTHER
    assert DecoderSpec.parse(b'{"type":"ByteLevel"}') == DecoderSpec(DecoderKind.BYTE_LEVEL)
    spaces = '{"type":"Replace","pattern":{"String":"\\u2581"},"content":" "}'
    fallback, fuse = '{"type":"ByteFallback"}', '{"type":"Fuse"}'
    gemma = f'{{"type":"Sequence","decoders":[{spaces},{fallback},{fuse}]}}'
    assert DecoderSpec.parse(gemma.encode()) == DecoderSpec(DecoderKind.SENTENCEPIECE)
    other = gemma.replace("2581", "2582")
    assert DecoderSpec.parse(other.encode()).kind is DecoderKind.OTHER


@given(data=st.binary(max_size=12), cut=st.integers(0, 12))
def test_take_characters(data: bytes, cut: int) -> None:
    text, rest = take_characters(data[:cut], False, False)
    assert len(rest) <= 3
    assert text + take_characters(rest + data[cut:], True, False)[0] == data.decode("utf-8", "replace")
    each = take_characters(data, True, True)[0]
    assert each.encode().replace("\ufffd".encode(), b"?") == expected_by_bytes(data)


def expected_by_bytes(data: bytes) -> bytes:
    """Every byte that is in no valid character becomes '?'."""
    out = b""
    while data:
        sizes = [size for size in (1, 2, 3, 4) if is_character(data[:size])]
        out += data[: sizes[0]].replace("\ufffd".encode(), b"?") if sizes else b"?"
        data = data[sizes[0] if sizes else 1 :]
    return out


def is_character(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


def test_the_three_kinds(byte_level: Tokenizer, sentencepiece: Tokenizer, word_piece: Tokenizer) -> None:
    kinds = [tokenizer.decoder.kind for tokenizer in (byte_level, sentencepiece, word_piece)]
    assert kinds == [DecoderKind.BYTE_LEVEL, DecoderKind.SENTENCEPIECE, DecoderKind.OTHER]
