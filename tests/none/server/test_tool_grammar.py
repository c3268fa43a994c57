"""Whatever a grammar of calls lets a model say, the reader of its format finds valid calls in it."""

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from tradewind.base.errors import RequestError
from tradewind.grammar.compile import Compiler
from tradewind.grammar.matcher import Vocabulary
from tradewind.protocol.sampling import StructuredOutputs
from tradewind.server.tool_grammar import forced_grammar
from tradewind.text.tool_calls import CallArguments, CallStart, ToolReader
from tradewind.text.tool_formats import GENERIC_JSON, HERMES, LLAMA3_JSON, MISTRAL, QWEN3_CODER, Tool, ToolFormat

EOS_ID = 256
# Bytes that JSON and marks need, so that random texts come to their end.
BYTES = Vocabulary([bytes([byte]) for byte in range(256)] + [b"<eos>"], [EOS_ID], [EOS_ID])
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


def draw(text: str, rng: random.Random) -> str:
    matcher = BYTES.begin(text)
    said = bytearray()
    while True:
        bits_W = np.zeros(BYTES.words, np.int32)
        matcher.fill(bits_W)
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
    compiled = Compiler().compile(StructuredOutputs(grammar=grammar))
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


def test_one_tool_alone() -> None:
    compiled = Compiler().compile(StructuredOutputs(grammar=forced_grammar(HERMES, TOOLS[1:], parallel=False)))
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
