"""Bodies of every kind against OpenAI's own OpenAPI document."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from live import Program

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
Check = Callable[[str, Any], None]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
COMMON: dict[str, Any] = {"model": "tiny", "max_tokens": 60, "seed": 1}
MESSAGES = {"messages": [{"role": "user", "content": "Once upon a time"}]}
STRUCTURED = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}

CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "several": {"n": 3},
    "logprobs": {"logprobs": True, "top_logprobs": 3, "n": 2},
    "structured": {"response_format": STRUCTURED},
    "json": {"response_format": {"type": "json_object"}},
    "tool": {"tools": [TOOL], "tool_choice": "required"},
    "named tool": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    "tool, perhaps": {"tools": [TOOL], "logprobs": True},
    "stopped": {"stop": ["a"]},
}
TEXTS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "Once upon a time"},
    "several": {"prompt": ["Once", "The"], "n": 2},
    "tokens": {"prompt": [[5, 6], [7]]},
    "logprobs": {"prompt": "Once", "logprobs": 3},
    "stopped": {"prompt": "Once", "stop": "a"},
}
WRONG: list[tuple[str, dict[str, Any], int]] = [
    (TEXT, {"prompt": "a", "temperature": "x"}, 400),
    (TEXT, {"prompt": "a" * 9000}, 400),
    (TEXT, {"prompt": "a", "model": "other"}, 404),
    (CHAT, {}, 400),
    ("/v1/nothing", {}, 404),
]


@pytest.fixture(scope="session")
def check(shared_data: Path) -> Check:
    """Raises unless a body is what OpenAI's document says of a schema."""

    def with_null(value: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [value, {"type": "null"}]} if value.pop("nullable", False) else value

    text = (shared_data / "specs" / "openai-openapi.json").read_text()
    components = json.loads(text, object_hook=with_null)["components"]
    validators: dict[str, Any] = {}

    def validate(schema: str, body: Any) -> None:
        if schema not in validators:
            whole = {"$ref": f"#/components/schemas/{schema}", "components": components}
            validators[schema] = jsonschema.Draft202012Validator(whole)
        validators[schema].validate(body)

    return validate


def post(program: Program, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(program.url + path, json=body, timeout=60)


def chunks(program: Program, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of every event of a stream with usage, but the last, which is checked."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = post(program, path, {**body, **options}).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


@pytest.mark.parametrize("kind", CHATS)
def test_chat_completions(program: Program, check: Check, kind: str) -> None:
    body = {**COMMON, **MESSAGES, **CHATS[kind]}
    answer = post(program, CHAT, body).json()
    check("CreateChatCompletionResponse", answer)
    assert len(answer["choices"]) == body.get("n", 1)
    streamed = chunks(program, CHAT, body)
    for chunk in streamed:
        check("CreateChatCompletionStreamResponse", chunk)
    ends = [choice["finish_reason"] for chunk in streamed for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(ends) == sorted(choice["finish_reason"] for choice in answer["choices"])


@pytest.mark.parametrize("kind", TEXTS)
def test_completions(program: Program, check: Check, kind: str) -> None:
    body = {**COMMON, **TEXTS[kind]}
    check("CreateCompletionResponse", post(program, TEXT, body).json())
    for chunk in chunks(program, TEXT, body):
        # The document has one schema for both, in which an answer has always ended; OpenAI's own chunks say null too.
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        if chunk["usage"] is None:
            del chunk["usage"]
        check("CreateCompletionResponse", chunk)


def test_models(program: Program, check: Check) -> None:
    check("ListModelsResponse", httpx.get(f"{program.url}/v1/models").json())
    check("Model", httpx.get(f"{program.url}/v1/models/alias").json())


@pytest.mark.parametrize(("path", "body", "status"), WRONG)
def test_errors(program: Program, check: Check, path: str, body: dict[str, Any], status: int) -> None:
    answer = post(program, path, body)
    assert answer.status_code == status
    check("ErrorResponse", answer.json())


def test_a_body_that_does_not_fit_is_found(check: Check) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check("CreateChatCompletionResponse", {"id": "x", "object": "chat.completion", "choices": []})
