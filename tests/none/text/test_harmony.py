"""GPT-OSS's messages: taken apart however they are cut, and what is no message kept as text."""

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradewind.text.answer_format import AnswerFormat, Reading
from tradewind.text.chat_template import ChatTemplate
from tradewind.text.harmony import MARKS, HarmonyReader, described, told
from tradewind.text.tool_calls import CallArguments, CallStart, Content, Piece, Reasoning
from tradewind.text.tool_formats import HARMONY

TOOLS: dict[str, Any] = {"weather": {"type": "object"}, "now": {"type": "object"}}
ARGUMENTS = '{"city": "Par<|is"}'
ANALYSIS = "<|channel|>analysis<|message|>Which city?<|end|>"
FINAL = "<|channel|>final<|message|>It rains."
CALL = f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}"
NEXT = "<|start|>assistant"
OTHER = "<|channel|>commentary to=browser.open<|message|>{}<|end|>"

Calls = list[tuple[str, str]]
CASES: list[tuple[str, str, str, Calls]] = [  # text, reasoning, content, calls
    (FINAL, "", "It rains.", []),
    (f"{FINAL}<|return|>", "", "It rains.", []),
    (f"{ANALYSIS}{NEXT}{FINAL}", "Which city?", "It rains.", []),
    (f"{ANALYSIS}{NEXT}{CALL}", "Which city?", "", [("weather", ARGUMENTS)]),
    (f"{CALL}<|call|>", "", "", [("weather", ARGUMENTS)]),
    (f"{NEXT}{CALL}<|call|>", "", "", [("weather", ARGUMENTS)]),
    (f" to=functions.weather<|channel|>commentary json<|message|>{ARGUMENTS}", "", "", [("weather", ARGUMENTS)]),
    (f"{NEXT} to=functions.weather<|channel|>commentary json<|message|>\n{ARGUMENTS}", "", "",
     [("weather", ARGUMENTS)]),
    (f"{CALL}<|call|>{NEXT}<|channel|>commentary to=functions.now<|message|><|call|>", "", "",
     [("weather", ARGUMENTS), ("now", "{}")]),
    (f"<|channel|>commentary<|message|>Let me see.<|end|>{NEXT}{CALL}", "", "Let me see.", [("weather", ARGUMENTS)]),
    (f"{ANALYSIS}{NEXT}{ANALYSIS}{NEXT}{FINAL}<|end|>{NEXT}{FINAL}", "Which city?\n\nWhich city?",
     "It rains.\n\nIt rains.", []),
    ("<|channel|>analysis<|message|>Hm", "Hm", "", []),
    ("<|channel|>analysis<|message|>Hm <|en", "Hm <|en", "", []),
    (f"<|channel|>analysis<|message|>Hm{FINAL}", "Hm", "It rains.", []),
    (f"{ANALYSIS}{NEXT}<|channel|>fin", "Which city?", "", []),
    ("Hello <b>", "", "Hello <b>", []),
    ("to=be or not", "", "to=be or not", []),
    ("  ", "", "", []),
    ("", "", "", []),
    (f"Hello {FINAL}", "", "Hello It rains.", []),
    (f"{FINAL}<|end|>and more", "", "It rains.and more", []),
    (OTHER, "", OTHER, []),
    ("<|channel|>commentary to=functions.other <|constrain|>json<|message|>{}", "",
     "<|channel|>commentary to=functions.other <|constrain|>json<|message|>{}", []),
    ("<|channel|>commentary to=functions.now<|message|>noon<|call|>", "",
     "<|channel|>commentary to=functions.now<|message|>noon<|call|>", []),
    ("<|channel|>commentary to=functions.now<|message|> ", "", "<|channel|>commentary to=functions.now<|message|> ",
     []),
    ("<|start|>user<|message|>And?<|end|>", "", "<|start|>user<|message|>And?<|end|>", []),
    ("<|channel|>final<|end|>", "", "<|channel|>final<|end|>", []),
    ("<|channel|>" + "x" * 600 + "<|message|>y", "", "<|channel|>" + "x" * 600 + "<|message|>y", []),
]  # fmt: skip


def read(text: str, places: list[int], tools: dict[str, Any] = TOOLS) -> tuple[str, str, Calls]:
    """Reasoning, content and calls of a text that comes cut at `places`."""
    reader = HarmonyReader(tools)
    cuts = sorted({0, len(text), *places})
    pieces: list[Piece] = []
    for begin, end in zip(cuts, cuts[1:] or [0], strict=False):
        pieces += reader.push(text[begin:end])
    pieces += reader.finish()
    reasoning, content, calls = "", "", []
    for piece in pieces:
        if isinstance(piece, CallStart):
            assert piece.index == len(calls)
            calls.append([piece.name, ""])
        elif isinstance(piece, CallArguments):
            assert piece.index == len(calls) - 1
            calls[-1][1] += piece.text
        elif isinstance(piece, Reasoning):
            reasoning += piece.text
        else:
            assert isinstance(piece, Content)
            assert piece.text
            content += piece.text
    return reasoning, content, [(name, arguments) for name, arguments in calls]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_way_of_writing_cut_anywhere(case: int) -> None:
    text, *expected = CASES[case]
    rng = random.Random(case)
    for places in ([], range(len(text)), *([rng.randrange(len(text) + 1) for _ in range(4)] for _ in range(20))):
        assert list(read(text, list(places))) == expected, places


BITS = st.sampled_from(
    [*MARKS, "assistant", "analysis", "commentary", "final", "user", " to=functions.now", "to=", "{", "}", '"a": 1',
     " ", "json", "\n", "x", "<|", "|>", "<|chan"]
)  # fmt: skip


@given(st.lists(BITS, max_size=20).map("".join), st.lists(st.integers(0, 200), max_size=8))
def test_no_cut_of_anything_changes_what_is_read(text: str, places: list[int]) -> None:
    whole = read(text, [])
    assert read(text, [place for place in places if place <= len(text)]) == whole
    assert read(text, list(range(len(text)))) == whole
    for _, arguments in whole[2]:
        assert arguments.startswith("{")


def test_arguments_and_reasoning_come_as_they_are_written() -> None:
    reader = HarmonyReader(TOOLS)
    assert reader.push("<|channel|>analysis<|message|>Whi") == [Reasoning("Whi")]
    assert reader.push("ch?<|end|><|start|>assistant<|channel|>commentary to=functions.weather<|message|>") == [
        Reasoning("ch?")
    ]
    assert reader.push('{"ci') == [CallStart(0, "weather"), CallArguments(0, '{"ci')]
    assert reader.push('ty": "x"}') == [CallArguments(0, 'ty": "x"}')]


def test_the_content_of_an_answer_as_it_was_written() -> None:
    reading = Reading(AnswerFormat.of("<|channel|>"), tools=TOOLS)
    assert reading.content_of(f"{ANALYSIS}{NEXT}{CALL}") == f"{NEXT}{CALL}"


# --- the template ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(shared_data: Any) -> ChatTemplate:
    return ChatTemplate((shared_data / "templates" / "openai-gpt-oss-120b.jinja").read_text(), {})


def test_the_template_tells_the_format(template: ChatTemplate) -> None:
    answer = AnswerFormat.of(template.source)
    assert answer.tools == HARMONY
    assert answer.is_harmony
    assert answer.reasoning is not None
    assert not Reading(answer).is_plain


def test_a_conversation_with_calls_reaches_the_template(template: ChatTemplate) -> None:
    def call(number: str, name: str, arguments: str) -> dict[str, Any]:
        return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}

    talk = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Which city?",
            "tool_calls": [call("1", "weather", '{"city": "Paris"}'), call("2", "now", "{}")],
        },
        {"role": "tool", "tool_call_id": "2", "content": "noon"},
        {"role": "tool", "tool_call_id": "1", "content": "Rain"},
    ]
    tools = described([{"type": "function", "function": {"name": "now"}}])
    text = template.render(told(talk), tools=tools)
    assert text.endswith(
        "<|start|>user<|message|>Weather?<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Which city?<|end|>"
        '<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>'
        '<|start|>functions.weather to=assistant<|channel|>commentary<|message|>"Rain"<|end|>'
        "<|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>"
        '<|start|>functions.now to=assistant<|channel|>commentary<|message|>"noon"<|end|>'
        "<|start|>assistant"
    )
    answered = [*talk, {"role": "assistant", "content": "Rain.", "reasoning_content": "x"}, talk[0]]
    assert "Which city?" not in template.render(told(answered), tools=tools)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["user", "assistant", "tool"])},
            optional={
                "content": st.none() | st.text(max_size=3) | st.just([{"type": "text", "text": "x"}]),
                "tool_calls": st.none() | st.lists(st.just({"id": "1"}) | st.just(3), max_size=2),
                "tool_call_id": st.just("1") | st.just([1]),
                "reasoning_content": st.just("hm") | st.just(3),
            },
        ),
        max_size=5,
    )
)
def test_no_conversation_is_too_odd(talk: list[dict[str, Any]]) -> None:
    json.dumps(told(talk))
