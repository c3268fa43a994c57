"""Whatever a grammar of calls lets a model say, the reader of its format finds valid calls in it."""

import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest

from tradewind.base.errors import RequestError
from tradewind.grammar.compile import Compiler
from tradewind.grammar.matcher import Vocabulary
from tradewind.protocol.sampling import StructuredOutputs
from tradewind.server.tool_grammar import forced_grammar, framed_grammar
from tradewind.text.harmony import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, START, HarmonyReader
from tradewind.text.tool_calls import CallArguments, CallStart, Content, Reasoning, ToolReader
from tradewind.text.tool_formats import (
    GENERIC_JSON,
    HARMONY,
    HERMES,
    LLAMA3_JSON,
    MISTRAL,
    QWEN3_CODER,
    Tool,
    ToolFormat,
)

EOS_ID = 256
# Bytes that JSON and marks need, so that random texts come to their end.
BYTES = Vocabulary([bytes([byte]) for byte in range(256)] + [b"<eos>"], [EOS_ID], [EOS_ID])
HARMONY_MARKS = (START, CHANNEL, MESSAGE, CONSTRAIN, END, CALL)
MARKS = Vocabulary(
    [bytes([byte]) for byte in range(256)] + [b"<eos>", *(mark.encode() for mark in HARMONY_MARKS)],
    [EOS_ID, *range(EOS_ID + 1, EOS_ID + 1 + len(HARMONY_MARKS))],
    [EOS_ID, EOS_ID + len(HARMONY_MARKS)],
)
TOOLS = [
    Tool(
        "weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 5},
                "unit": {"enum": ["C", "F"]},
                "days": {"$ref": "#/$defs/days"},
                "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 14}},
        },
    ),
    Tool("now", {"type": "object", "properties": {}, "additionalProperties": False}),
]
FORMATS = [GENERIC_JSON, HERMES, LLAMA3_JSON, MISTRAL, QWEN3_CODER]


def draw_messages(text: str, rng: random.Random) -> str:
    """As `draw`, by a model whose marks are tokens of their own; its reasoning is short."""
    matcher, said = MARKS.begin(text), ""
    while True:
        bits_W = MARKS.masks([matcher])[0]
        choices = np.flatnonzero(np.unpackbits(bits_W.view(np.uint8), bitorder="little")).tolist()
        assert choices, (said, matcher.error)
        marks = [token for token in choices if token > EOS_ID]
        plain = [byte for byte in choices if (32 <= byte < 127 and byte != 92) or byte == 10]
        ends = [byte for byte in plain if byte in b'"]}' and rng.random() < 0.4]
        token = rng.choice(marks if marks and (not plain or rng.random() < 0.3) else ends or plain or choices)
        if token == EOS_ID or token == EOS_ID + len(HARMONY_MARKS):
            return said
        said += chr(token) if token < EOS_ID else HARMONY_MARKS[token - EOS_ID - 1]
        if not matcher.advance(token):
            assert matcher.error is None, (said, matcher.error)
            return said


def draw(text: str, rng: random.Random) -> str:
    matcher = BYTES.begin(text)
    said = bytearray()
    while True:
        bits_W = BYTES.masks([matcher])[0]
        choices = np.flatnonzero(np.unpackbits(bits_W.view(np.uint8), bitorder="little")).tolist()
        assert choices, (said, matcher.error)
        if EOS_ID in choices and (len(choices) == 1 or rng.random() < 0.3):
            return said.decode()
        plain = [byte for byte in choices if (32 <= byte < 127 and byte != 92) or byte == 10]
        ends = [byte for byte in plain if byte in b'"]}<' and rng.random() < 0.4]
        said.append(rng.choice(ends or plain or [byte for byte in choices if byte != EOS_ID]))
        if not matcher.advance(said[-1]):
            assert matcher.error is None, (said, matcher.error)
            return said.decode()


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("tool_format", FORMATS, ids=[known.name for known in FORMATS])
def test_every_text_is_valid_calls(tool_format: ToolFormat, parallel: bool) -> None:
    grammar = forced_grammar(tool_format, TOOLS, parallel)
    compiled = Compiler(HARMONY_MARKS).compile(StructuredOutputs(grammar=grammar))
    schemas: dict[str, Any] = {tool.name: tool.parameters for tool in TOOLS}
    rng = random.Random(5)
    seen, most = set(), 0
    for _ in range(25):
        text = draw(compiled, rng)
        reader = ToolReader(tool_format, schemas, is_open=True)
        pieces = reader.push(text) + reader.finish()
        names = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        assert names, text
        most = max(most, len(names))
        seen |= set(names)
        for index, name in enumerate(names):
            parts = [piece.text for piece in pieces if isinstance(piece, CallArguments) and piece.index == index]
            jsonschema.validate(json.loads("".join(parts)), schemas[name])
        assert all(isinstance(piece, CallStart | CallArguments) for piece in pieces), (text, pieces)
    assert seen == {"weather", "now"}
    assert (most > 1) is parallel


def test_every_text_of_messages_is_one_valid_call() -> None:
    compiled = Compiler(HARMONY_MARKS).compile(StructuredOutputs(grammar=forced_grammar(HARMONY, TOOLS, parallel=True)))
    schemas: dict[str, Any] = {tool.name: tool.parameters for tool in TOOLS}
    rng, seen, reasoned = random.Random(3), set(), 0
    for _ in range(25):
        text = draw_messages(compiled, rng)
        reader = HarmonyReader(schemas)
        pieces = reader.push(text) + reader.finish()
        (name,) = (piece.name for piece in pieces if isinstance(piece, CallStart))
        seen.add(name)
        reasoned += any(isinstance(piece, Reasoning) for piece in pieces)
        arguments = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
        jsonschema.validate(json.loads(arguments), schemas[name])
        assert not any(isinstance(piece, Content) for piece in pieces), text
    assert seen == {"weather", "now"}
    assert 0 < reasoned < 25


PARAMETERS = TOOLS[0].parameters


@pytest.mark.parametrize(
    ("asked", "check"),
    [
        (StructuredOutputs(json=PARAMETERS), lambda text: jsonschema.validate(json.loads(text), PARAMETERS)),
        (StructuredOutputs(choice=["yes", "no"]), lambda text: ["yes", "no"].index(text)),
        (StructuredOutputs(regex="[ab]{3}c"), lambda text: re.fullmatch("[ab]{3}c", text)[0]),
        (StructuredOutputs(grammar='start: "x" rest\nrest: "y" | "z"'), lambda text: ["xy", "xz"].index(text)),
    ],
)  # fmt: skip
def test_the_last_message_is_what_was_asked_for(asked: StructuredOutputs, check: Callable[[str], Any]) -> None:
    compiled = Compiler(HARMONY_MARKS).compile(StructuredOutputs(grammar=framed_grammar(asked, "structured_outputs")))
    rng = random.Random(7)
    for _ in range(10):
        text = draw_messages(compiled, rng)
        reader = HarmonyReader({})
        pieces = reader.push(text) + reader.finish()
        check("".join(piece.text for piece in pieces if isinstance(piece, Content)))


def test_one_tool_alone() -> None:
    compiled = Compiler(HARMONY_MARKS).compile(
        StructuredOutputs(grammar=forced_grammar(HERMES, TOOLS[1:], parallel=False))
    )
    text = draw(compiled, random.Random(0))
    assert text.startswith('<tool_call>\n{"name": "now", "arguments": {')


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"type": "string", "pattern": "^x"}}},
        {"properties": {}, "required": ["a"]},
        {"properties": {}, "minProperties": 1},
    ],
)
def test_what_a_format_cannot_be_held_to_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        forced_grammar(QWEN3_CODER, [Tool("f", parameters)], parallel=False)
    assert caught.value.field == "tools"
    assert forced_grammar(HERMES, [Tool("f", parameters)], parallel=False)
