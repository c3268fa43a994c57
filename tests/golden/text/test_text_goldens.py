"""Real tokenizers and templates against what their authors publish, and against `transformers`."""

import json
import random
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.text.chat_template import ChatTemplate
from tradewind.text.detokenizer import Detokenizer
from tradewind.text.pieces import DecoderKind
from tradewind.text.stops import StopStrings
from tradewind.text.tokenizer import Tokenizer

FOLDERS = {"qwen2.5": "tokenizers/qwen2.5", "gpt2": "tokenizers/gpt2", "stories260K": "models/stories260K"}
SEPARATOR = "\n__ggml_vocab_test__\n"


@pytest.fixture(scope="session", params=FOLDERS)
def tokenizer(request: pytest.FixtureRequest, shared_data: Path) -> Tokenizer:
    return Tokenizer.load(shared_data / FOLDERS[request.param])


@pytest.mark.parametrize("name", ["qwen2.5", "gpt2"])
def test_published_encodings(shared_data: Path, name: str) -> None:
    folder = shared_data / FOLDERS[name]
    tokenizer = Tokenizer.load(folder)
    texts = (folder / "cases.inp").read_text(encoding="utf-8").split(SEPARATOR)
    expected = [[int(word) for word in line.split()] for line in (folder / "cases.out").read_text().split("\n")]
    assert len(texts) == len(expected) == 47
    assert [tokenizer.encode(text) for text in texts] == expected
    assert tokenizer.encode_batch(texts) == expected
    # Qwen's normalizer composes characters (NFC), so that decomposed ones come back composed; here none are.
    assert [tokenizer.decode(ids) for ids in expected] == texts


def stream(detokenizer: Detokenizer, ids: list[int]) -> str:
    return "".join([detokenizer.push(token_id) for token_id in ids]) + detokenizer.flush()


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=60))
def test_any_text_streams_as_it_decodes(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert stream(Detokenizer(tokenizer), ids) == tokenizer.decode(ids) == tokenizer.decode_by_library(ids, True)


@settings(deadline=None, max_examples=150)
@given(seed=st.integers(0, 2**32), size=st.integers(0, 80), skip=st.booleans())
def test_random_tokens_stream_as_they_decode(tokenizer: Tokenizer, seed: int, size: int, skip: bool) -> None:
    draw = random.Random(seed)
    ids = [draw.randrange(tokenizer.vocab_size + 3) for _ in range(size)]
    assert stream(Detokenizer(tokenizer, [], skip), ids) == tokenizer.decode(ids, skip)
    if tokenizer.decoder.kind is DecoderKind.SENTENCEPIECE:
        ids = without_mixed_runs(ids)
    assert stream(Detokenizer(tokenizer, [], skip), ids) == tokenizer.decode_by_library(ids, skip)


def without_mixed_runs(ids: list[int]) -> list[int]:
    """Drop runs of byte tokens (stories260K: ids 3 to 258) that hold valid characters as well as invalid bytes.

    The library makes U+FFFD of every byte of such a run; here what is valid is kept, as SentencePiece itself does.
    Unknown ids and special tokens go, too: they would join two runs.
    """
    kept: list[int] = []
    for is_bytes, run in groupby((i for i in ids if 3 <= i < 512), key=lambda token_id: token_id < 259):
        members = list(run)
        raw = bytes(token_id - 3 for token_id in members) if is_bytes else b""
        readable = raw.decode("utf-8", "ignore")
        if not readable or readable.encode() == raw:
            kept += members
    return kept


def test_every_token_by_itself(tokenizer: Tokenizer) -> None:
    """The table against the library, over the whole vocabulary; a neighbour keeps the first space."""
    anchor = tokenizer.encode("x", add_special_tokens=False)[-1]
    before = tokenizer.decode_by_library([anchor], False)
    for token_id in range(tokenizer.vocab_size):
        expected = tokenizer.decode_by_library([anchor, token_id], False)
        assert before + tokenizer.token_text(token_id) == expected, token_id


def test_stories260k_golden_text(shared_data: Path) -> None:
    folder = shared_data / FOLDERS["stories260K"]
    tokenizer = Tokenizer.load(folder)
    golden = json.loads((folder / "greedy_200.json").read_text())
    ids, text = golden["greedy_ids"], golden["text"]
    assert tokenizer.decode(ids) == text == stream(Detokenizer(tokenizer, golden["prompt_ids"]), ids)
    assert tokenizer.encode(text)[0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokenizer.encode(text)) == text


def template_cases(shared_data: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    goldens = json.loads((shared_data / "templates" / "chat_template_goldens.json").read_text(encoding="utf-8"))
    for case in goldens["cases"]:
        if case["python_jinja2_matches"]:
            yield goldens, case


def test_published_renderings(shared_data: Path) -> None:
    names = []
    for goldens, case in template_cases(shared_data):
        specials = {name: case[name] for name in ("bos_token", "eos_token")}
        template = ChatTemplate(case["template_str"], specials)
        generation_prompt = goldens["add_generation_prompt"]
        rendered = template.render(goldens["messages"], add_generation_prompt=generation_prompt)
        assert rendered == case["reference"], case["name"]
        names.append(case["name"])
    assert len(names) >= 20


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Wind & weather at a place, <now>",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "é"},
                    "days": {"type": "integer", "enum": [1, 2]},
                },
                "required": ["place"],
            },
        },
    }
]
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Horta"}}}
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "How is the wind in Horta?"}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, {"role": "assistant", "content": " <think>\nhm\n</think>\n\nFresh. "}, USER],
    "tool call": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "20 knots"},
    ],
    "bad order": [{"role": "assistant", "content": "x"}, {"role": "assistant", "content": "y"}],
}


@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_templates_render_as_in_transformers(shared_data: Path, conversation: str, with_tools: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    tools = TOOLS if with_tools else None
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    compared = 0
    for path in sorted((shared_data / "templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        messages = CONVERSATIONS[conversation]
        try:
            theirs = utils.render_jinja_template(
                [messages], tools=tools, chat_template=source, add_generation_prompt=True, **specials
            )[0][0]
        except Exception:  # noqa: BLE001  whatever the template raises there, it has to raise here
            theirs = None
        try:
            ours = ChatTemplate(source, specials).render(messages, tools=tools)
        except Exception:  # noqa: BLE001
            ours = None
        assert ours == theirs, path.name
        compared += theirs is not None
    assert compared >= 3


def test_stop_strings_in_a_stream_of_real_tokens(tokenizer: Tokenizer) -> None:
    text = "The wind is fair. 🦙\nUser: go on"
    detokenizer, scanner, given_out = Detokenizer(tokenizer), StopStrings(["🦙\nUser:", "sail"]), ""
    for token_id in tokenizer.encode(text):
        scan = scanner.push(detokenizer.push(token_id))
        given_out += scan.text
        if scan.stopped_by is not None:
            break
    assert (given_out, scan.stopped_by) == ("The wind is fair. ", "🦙\nUser:")
