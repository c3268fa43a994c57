"""Tool calls in text: every family's way, cut anywhere, and what only looks like one."""

import itertools
import json
import random
from typing import Any

import pytest

from tradewind.text.answer_format import ReasoningCount
from tradewind.text.tool_calls import (
    CallArguments,
    CallStart,
    Content,
    ContentReader,
    Piece,
    Reader,
    Reasoning,
    ReasoningReader,
    ToolReader,
)
from tradewind.text.tool_formats import (
    GENERIC_JSON,
    HERMES,
    LLAMA3_JSON,
    MISTRAL,
    QWEN3_CODER,
    ToolFormat,
    format_of,
)

TOOLS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "x": {"type": "object"}},
        "required": ["city"],
    },
    "now": {"type": "object", "properties": {}},
}
PARIS = '{"city": "Par}\\"is", "x": {"a": [1, {}]}}'
CALL = f'{{"name": "weather", "arguments": {PARIS}}}'
NOW = '{"name": "now", "arguments": {}}'
XML = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nPar<is\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>"
)

Calls = list[tuple[str, Any]]
CASES: list[tuple[ToolFormat, str, str, Calls]] = [
    (HERMES, "Hello <b>", "Hello <b>", []),
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", [("weather", PARIS)]),
    (HERMES, f"Let me see.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{NOW}\n</tool_call>\n", "Let me see.\n",
     [("weather", PARIS), ("now", "{}")]),
    (HERMES, f"<tool_call>{CALL}</tool_call> and that is it", "and that is it", [("weather", PARIS)]),
    (HERMES, '<tool_call>{"arguments": {"city": "x"}, "name": "weather"}</tool_call>', "",
     [("weather", '{"city": "x"}')]),
    (HERMES, '<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
    (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
     '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', []),
    (HERMES, "<tool_call>\nnothing</tool_call>", "<tool_call>\nnothing</tool_call>", []),
    (HERMES, '<tool_call>{"name": "now", "arguments": "x"}', '<tool_call>{"name": "now", "arguments": "x"}', []),
    (HERMES, '<tool_call>{"name": "now", "argu', '<tool_call>{"name": "now", "argu', []),
    (HERMES, "<tool_call>", "<tool_call>", []),
    (HERMES, "a <tool_", "a <tool_", []),
    (LLAMA3_JSON, f'<|python_tag|>{{"name": "weather", "parameters": {PARIS}}}', "", [("weather", PARIS)]),
    (LLAMA3_JSON, f"{CALL}; {NOW}", "", [("weather", PARIS), ("now", "{}")]),
    (LLAMA3_JSON, 'The answer is {"name": "now"}', 'The answer is {"name": "now"}', []),
    (LLAMA3_JSON, '{"answer": 3}', '{"answer": 3}', []),
    (GENERIC_JSON, f"[{CALL}, {NOW}]", "", [("weather", PARIS), ("now", "{}")]),
    (GENERIC_JSON, "[1, 2]", "[1, 2]", []),
    (MISTRAL, f"[TOOL_CALLS][{CALL}, {NOW}]", "", [("weather", PARIS), ("now", "{}")]),
    (MISTRAL, f"[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now{{}}", "", [("weather", PARIS), ("now", "{}")]),
    (MISTRAL, "[TOOL_CALLS]other[ARGS]{}", "[TOOL_CALLS]other[ARGS]{}", []),
    (QWEN3_CODER, "Well.\n" + XML + "\n" + XML, "Well.\n", [("weather", '{"city": "Par<is", "days": 3}')] * 2),
    (QWEN3_CODER, "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [("now", "{}")]),
    (QWEN3_CODER, "<tool_call>\n<function=who>\n</function>", "<tool_call>\n<function=who>\n</function>", []),
]  # fmt: skip


def read(reader: Reader, parts: list[str]) -> list[Piece]:
    return [piece for part in parts for piece in reader.push(part)] + reader.finish()


def put_together(pieces: list[Piece]) -> tuple[str, Calls, str]:
    """Content, calls and reasoning; checks that arguments follow their call."""
    content, reasoning, calls = "", "", []
    for piece in pieces:
        if isinstance(piece, Content):
            assert piece.text
            content += piece.text
        elif isinstance(piece, Reasoning):
            assert piece.text
            reasoning += piece.text
        elif isinstance(piece, CallStart):
            assert piece.index == len(calls)
            calls.append([piece.name, ""])
        else:
            assert isinstance(piece, CallArguments)
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.text
    return content, [(name, arguments) for name, arguments in calls], reasoning


def cuts(text: str) -> list[list[str]]:
    rng = random.Random(len(text))
    ways = [[text], list(text)]
    for _ in range(5):
        places = sorted({0, len(text), *(rng.randrange(len(text) + 1) for _ in range(6))})
        ways.append([text[begin:end] for begin, end in itertools.pairwise(places)])
    return ways


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_format_cut_anywhere(case: int) -> None:
    tool_format, text, content, calls = CASES[case]
    for parts in cuts(text):
        found, found_calls, _ = put_together(read(ToolReader(tool_format, TOOLS), parts))
        assert found_calls == calls, parts
        assert found == content, parts
        for _, arguments in found_calls:
            json.loads(arguments)


def test_arguments_come_as_they_are_written() -> None:
    reader = ToolReader(HERMES, TOOLS)
    reader.push('<tool_call>\n{"name": "weather", ')
    assert reader.push('"arguments": {"ci') == [CallStart(0, "weather"), CallArguments(0, '{"ci')]
    assert reader.push('ty": "x') == [CallArguments(0, 'ty": "x')]
    assert reader.push('"}') == [CallArguments(0, '"}')]
    assert reader.push("}\n</tool_call>") == []


def test_nothing_is_lost_of_what_is_no_call() -> None:
    rng = random.Random(1)
    bits = [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        '"',
        "name",
        ":",
        "[TOOL_CALLS]",
        "<function=",
        ">",
        "x",
        " ",
        "\\",
    ]
    for tool_format in (HERMES, LLAMA3_JSON, MISTRAL, QWEN3_CODER, GENERIC_JSON):
        for _ in range(300):
            text = "".join(rng.choice(bits) for _ in range(12))
            whole = put_together(read(ToolReader(tool_format, {}), [text]))
            assert whole == (text, [], ""), text
            assert put_together(read(ToolReader(tool_format, {}), list(text))) == whole, text


@pytest.mark.parametrize(
    ("text", "is_open", "reasoning", "content"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", False, "\nHm.\n", "Yes."),
        ("Hm.</think>Yes.", True, "Hm.", "Yes."),
        ("Yes. <think>no", False, "", "Yes. <think>no"),
        ("<thin", False, "", "<thin"),
        ("<think>Hm", False, "Hm", ""),
        ("Hm </thi", True, "Hm </thi", ""),
        ("</think>Yes", True, "", "Yes"),
        ("", True, "", ""),
    ],
)
def test_reasoning(text: str, is_open: bool, reasoning: str, content: str) -> None:
    for parts in cuts(text):
        reader = ReasoningReader("<think>", "</think>", is_open=is_open, rest=ContentReader())
        assert put_together(read(reader, parts)) == (content, [], reasoning), parts


def test_reasoning_then_a_call() -> None:
    text = f"<think>Which?</think>\n\n<tool_call>\n{CALL}\n</tool_call>"
    for parts in cuts(text):
        reader = ReasoningReader("<think>", "</think>", is_open=False, rest=ToolReader(HERMES, TOOLS))
        assert put_together(read(reader, parts)) == ("", [("weather", PARIS)], "Which?")


def test_templates_tell_their_format(shared_data: Any) -> None:
    expected = {
        "Qwen-Qwen3-0.6B": HERMES,
        "Qwen-Qwen2.5-7B-Instruct": HERMES,
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": HERMES,
        "Qwen3-Coder": QWEN3_CODER,
        "meta-llama-Llama-3.1-8B-Instruct": LLAMA3_JSON,
        "Mistral-Small-3.2-24B-Instruct-2506": MISTRAL,
        "google-gemma-2-2b-it": GENERIC_JSON,
    }
    found = {name: format_of((shared_data / "templates" / f"{name}.jinja").read_text()) for name in expected}
    assert found == expected


@pytest.mark.parametrize(
    ("has_begun", "tokens", "expected"),
    [
        (True, [5, 6, 2, 7, 1, 8], 2),  # what comes later is no reasoning, whatever it says
        (True, [5, 6, 7], 3),
        (True, [2, 5], 0),
        (False, [1, 5, 6, 2, 7], 2),
        (False, [5, 1, 6, 2], 0),
        (False, [], 0),
    ],
)
def test_tokens_of_reasoning_are_counted(has_begun: bool, tokens: list[int], expected: int) -> None:
    for piece in (1, 2, 100):
        count = ReasoningCount((1, 2), has_begun)
        for start in range(0, len(tokens), piece):
            count.take(tokens[start : start + piece])
        assert count.tokens == expected
