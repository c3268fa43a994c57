"""litellm: as an OpenAI-compatible provider, as vLLM's, and as Anthropic's."""

import json
from typing import Any

import pytest

litellm = pytest.importorskip("litellm")
ASKED: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def ask(url: str, provider: str = "openai", **fields: Any) -> Any:
    fields = {"messages": ASKED, "max_tokens": 200, "temperature": 0, **fields}
    return litellm.completion(model=f"{provider}/demo", api_base=url, api_key="none", **fields)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_a_chat_whole_and_streamed(url: str, provider: str) -> None:
    answer = ask(url, provider)
    assert "42" in answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(url, provider, stream=True)]
    assert len(pieces) > 2
    assert "".join(pieces) == answer.choices[0].message.content


def test_as_anthropics(url: str) -> None:
    answer = ask(url.removesuffix("/v1"), "anthropic")
    assert "42" in answer.choices[0].message.content


def test_structured_output(url: str) -> None:
    schema = {"name": "city", "schema": TOOL["function"]["parameters"], "strict": True}
    answer = ask(url, response_format={"type": "json_schema", "json_schema": schema})
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}


def test_a_tool_that_must_be_called(url: str) -> None:
    answer = ask(url, tools=[TOOL], tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


def test_text(url: str) -> None:
    model = "text-completion-openai/demo"
    answer = litellm.text_completion(
        model=model, prompt="Once upon a time", max_tokens=12, api_base=url, api_key="none"
    )
    assert answer.choices[0].text


def test_errors_are_typed(url: str) -> None:
    with pytest.raises(litellm.BadRequestError):
        ask(url, temperature=-1)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/other", api_base=url, api_key="none", messages=ASKED)
