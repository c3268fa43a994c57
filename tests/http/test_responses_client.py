"""OpenAI's own client on `/v1/responses`, against the built-in model."""

import json
import time
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel

ASKED = "What is 17 + 25?"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "name": "weather", "description": "Of a city.", "parameters": PARAMETERS}
TOOL["strict"] = True
COLD: dict[str, Any] = {"model": "demo", "temperature": 0}
HOT: dict[str, Any] = {"model": "demo", "temperature": 1.5, "extra_body": {"seed": 5}}


class Person(BaseModel):
    """What an answer is to be."""

    name: str
    age: int
    mood: Literal["glad", "sad"]


def test_a_response_and_its_stream(demo: openai.OpenAI) -> None:
    """A long one: what is said while the server's process has to wait for a core comes in one piece."""
    asked = "Tell me a short story about a fox."
    whole = demo.responses.create(input=asked, **COLD)
    assert "fox" in whole.output_text
    assert whole.status == "completed"
    with demo.responses.stream(input=asked, **COLD) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text == whole.output_text
    assert len(pieces) > 1
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_that_is_kept(demo: openai.OpenAI) -> None:
    first = demo.responses.create(input=ASKED, **COLD)
    second = demo.responses.create(input="And once more?", previous_response_id=first.id, **COLD)
    talk: Any = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And once more?"},
    ]
    assert demo.responses.create(input=talk, **COLD).output_text == second.output_text
    assert demo.responses.retrieve(second.id) == second
    items = list(demo.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message"] * 3
    demo.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        demo.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        demo.responses.create(input="x", previous_response_id=first.id, **COLD)
    assert caught.value.param == "previous_response_id"


def test_input_tokens(demo: openai.OpenAI) -> None:
    counted = demo.responses.input_tokens.count(input=ASKED, model="demo")
    whole = demo.responses.create(input=ASKED, **COLD)
    assert whole.usage is not None
    assert counted.input_tokens == whole.usage.input_tokens


def test_parse(demo: openai.OpenAI) -> None:
    done = demo.responses.parse(input="Who?", text_format=Person, max_output_tokens=400, **HOT)
    assert done.output_parsed is not None
    assert done.output_parsed.mood in ("glad", "sad")


def test_a_call_and_its_result(demo: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    first = demo.responses.create(input="Weather?", max_output_tokens=300, **asked, **HOT)
    (call,) = first.output
    assert call.type == "function_call"
    jsonschema.validate(json.loads(call.arguments), PARAMETERS)
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    done = demo.responses.create(input=result, previous_response_id=first.id, tools=[TOOL], max_output_tokens=5, **HOT)
    assert done.output[0].type == "message"
    with demo.responses.stream(input="Weather?", max_output_tokens=300, **asked, **HOT) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert "".join(pieces) == streamed.arguments == call.arguments


def wait_for(demo: openai.OpenAI, response_id: str) -> Any:
    deadline_s = time.monotonic() + 30
    while (response := demo.responses.retrieve(response_id)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return response


def test_in_the_background(demo: openai.OpenAI) -> None:
    begun = demo.responses.create(input=ASKED, background=True, **COLD)
    assert begun.status in ("queued", "in_progress")
    assert "42" in wait_for(demo, begun.id).output_text
    assert wait_for(demo, begun.id).output_text == demo.responses.create(input=ASKED, **COLD).output_text


def test_a_stream_in_the_background_is_left_and_taken_up(demo: openai.OpenAI) -> None:
    stream = demo.responses.create(input=ASKED, background=True, stream=True, **COLD)
    first = [event for event, _ in zip(stream, range(5), strict=False)]
    stream.close()
    assert first[0].type == "response.created"
    response_id = first[0].response.id
    rest = list(demo.responses.retrieve(response_id, stream=True, starting_after=first[-1].sequence_number))
    assert rest[-1].type == "response.completed"
    assert [event.sequence_number for event in [*first, *rest]] == list(range(len(first) + len(rest)))
    deltas = [event.delta for event in [*first, *rest] if event.type == "response.output_text.delta"]
    assert "".join(deltas) == wait_for(demo, response_id).output_text
    with demo.responses.stream(response_id=response_id, starting_after=None) as again:
        assert again.get_final_response().output_text == "".join(deltas)


def test_cancelling(demo: openai.OpenAI) -> None:
    endless: Any = {"ignore_eos": True}
    begun = demo.responses.create(input=ASKED, background=True, extra_body=endless, **COLD)
    cancelled = demo.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    assert demo.responses.retrieve(begun.id) == cancelled == demo.responses.cancel(begun.id)
    with pytest.raises(openai.BadRequestError):
        demo.responses.cancel(demo.responses.create(input=ASKED, **COLD).id)
    with pytest.raises(openai.BadRequestError) as caught:
        demo.responses.create(input=ASKED, background=True, store=False, **COLD)
    assert caught.value.param == "store"


def test_errors(demo: openai.OpenAI) -> None:
    picture: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}]
    with pytest.raises(openai.BadRequestError) as caught:
        demo.responses.create(input=picture, **COLD)
    assert caught.value.param == "input[0].content[0].type"
    with pytest.raises(openai.BadRequestError) as caught:
        demo.responses.create(input="x", tools=[{"type": "web_search"}], **COLD)
    assert caught.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError):
        demo.responses.create(input="x", model="other")
