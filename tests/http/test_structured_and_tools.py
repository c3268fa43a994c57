"""Structured output and tools, by OpenAI's own client from the built-in model."""

import json
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
HOT: dict[str, Any] = {"model": "demo", "temperature": 1.5, "seed": 5}
ASKED: list[Any] = [{"role": "user", "content": "What will the weather be?"}]


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int
    mood: Literal["glad", "sad"]


def test_parse(demo: openai.OpenAI) -> None:
    done = demo.chat.completions.parse(messages=ASKED, response_format=Person, max_tokens=400, **HOT)
    assert done.choices[0].message.parsed is not None
    assert done.choices[0].message.parsed.mood in ("glad", "sad")


def test_a_stream_with_a_schema(demo: openai.OpenAI) -> None:
    schema = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "colours", "schema": schema, "strict": True}}
    stream = demo.chat.completions.create(messages=ASKED, response_format=wanted, stream=True, n=3, **HOT)
    texts = ["", "", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    for text in texts:
        jsonschema.validate(json.loads(text), schema)


def test_completions_with_vllms_field(demo: openai.OpenAI) -> None:
    done = demo.completions.create(
        prompt="Yes or no?", extra_body={"structured_outputs": {"choice": ["yes", "no"]}}, n=4, **HOT
    )
    assert {choice.text for choice in done.choices} <= {"yes", "no"}


def test_a_schema_that_cannot_be_kept(demo: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="/properties/a/uniqueItems") as caught:
        demo.chat.completions.create(messages=ASKED, response_format=wanted, **HOT)
    assert caught.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call(demo: openai.OpenAI, choice: Any) -> None:
    done = demo.chat.completions.create(
        messages=ASKED, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, max_tokens=300, **HOT
    )
    (call,) = done.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    jsonschema.validate(json.loads(call.function.arguments), TOOL["function"]["parameters"])


# A long one: what is said while the server's process has to wait for a core comes in one piece.
LONG_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"days": {"type": "array", "items": {"enum": [7, 8, 9]}, "minItems": 60, "maxItems": 60}},
            "required": ["days"],
            "additionalProperties": False,
        },
    },
}


def test_a_streamed_call_and_its_result(demo: openai.OpenAI) -> None:
    with demo.chat.completions.stream(
        messages=ASKED, tools=[LONG_TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=400, **HOT
    ) as stream:
        pieces = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls or []
    assert "".join(pieces) == call.function.arguments
    assert len(pieces) > 1
    told: list[Any] = [
        *ASKED,
        message.model_dump(exclude_none=True, include={"role", "tool_calls"}),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    done = demo.chat.completions.create(messages=told, tools=[LONG_TOOL], max_tokens=5, **HOT)
    assert done.choices[0].message.role == "assistant"


def test_hostile_schemas_slow_nobody(demo: openai.OpenAI) -> None:
    bomb: Any = {"type": "integer"}
    for _ in range(90):
        bomb = {"anyOf": [{"type": "array", "items": bomb}, {"type": "string"}]}
    for schema in (bomb, {"type": "integer", "multipleOf": 999983}, {"$ref": "file:///etc/passwd"}, {"$ref": "#"}):
        wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        with pytest.raises(openai.BadRequestError):
            demo.chat.completions.create(messages=ASKED, response_format=wanted, max_tokens=5, **HOT)
    assert demo.completions.create(prompt="Hello", max_tokens=3, **HOT).choices[0].text
