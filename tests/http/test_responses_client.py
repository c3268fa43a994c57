"""OpenAI's own client on `/v1/responses`, against the built-in model."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema
import openai
import pytest
from live import Program
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


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    served = Program("demo", "--device", "cpu", "--threads", "1", "--memory-bytes", "16MiB")
    yield openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    served.close()


def test_a_response_and_its_stream(client: openai.OpenAI) -> None:
    whole = client.responses.create(input=ASKED, **COLD)
    assert "42" in whole.output_text
    assert whole.status == "completed"
    with client.responses.stream(input=ASKED, **COLD) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(pieces) == final.output_text == whole.output_text
    assert len(pieces) > 1
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_that_is_kept(client: openai.OpenAI) -> None:
    first = client.responses.create(input=ASKED, **COLD)
    second = client.responses.create(input="And once more?", previous_response_id=first.id, **COLD)
    talk: Any = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And once more?"},
    ]
    assert client.responses.create(input=talk, **COLD).output_text == second.output_text
    assert client.responses.retrieve(second.id) == second
    items = list(client.responses.input_items.list(second.id, order="asc", limit=2))
    assert [item.type for item in items] == ["message"] * 3
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(input="x", previous_response_id=first.id, **COLD)
    assert caught.value.param == "previous_response_id"


def test_parse(client: openai.OpenAI) -> None:
    done = client.responses.parse(input="Who?", text_format=Person, max_output_tokens=400, **HOT)
    assert done.output_parsed is not None
    assert done.output_parsed.mood in ("glad", "sad")


def test_a_call_and_its_result(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    first = client.responses.create(input="Weather?", max_output_tokens=300, **asked, **HOT)
    (call,) = first.output
    assert call.type == "function_call"
    jsonschema.validate(json.loads(call.arguments), PARAMETERS)
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}]
    done = client.responses.create(
        input=result, previous_response_id=first.id, tools=[TOOL], max_output_tokens=5, **HOT
    )
    assert done.output[0].type == "message"
    with client.responses.stream(input="Weather?", max_output_tokens=300, **asked, **HOT) as stream:
        pieces = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        (streamed,) = stream.get_final_response().output
    assert streamed.type == "function_call"
    assert "".join(pieces) == streamed.arguments == call.arguments


def test_errors(client: openai.OpenAI) -> None:
    picture: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input=picture, **COLD)
    assert caught.value.param == "input[0].content[0].type"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(input="x", tools=[{"type": "web_search"}], **COLD)
    assert caught.value.param == "tools[0].type"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input="x", model="other")
