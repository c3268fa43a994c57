"""Anthropic's own client, against the built-in model."""

from collections.abc import Iterator
from typing import Any

import anthropic
import jsonschema
import pytest
from live import Program

ASKED: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Any = {"name": "weather", "description": "Of a city.", "input_schema": SCHEMA}


@pytest.fixture(scope="module")
def client() -> Iterator[anthropic.Anthropic]:
    served = Program("demo", "--device", "cpu", "--threads", "1", "--memory-bytes", "16MiB", "--api-key", "secret")
    yield anthropic.Anthropic(base_url=served.url, api_key="secret", max_retries=0)
    served.close()


def test_a_message_and_its_tokens(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="demo", max_tokens=40, messages=ASKED, extra_body={"temperature": 0})
    assert message.content[0].type == "text"
    assert "42" in message.content[0].text
    assert message.stop_reason == "end_turn"
    counted = client.messages.count_tokens(model="demo", messages=ASKED)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="demo", max_tokens=40, messages=ASKED, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        assert "42" in text
        assert stream.get_final_message().stop_reason == "end_turn"


def test_a_forced_tool(client: anthropic.Anthropic) -> None:
    choice: Any = {"type": "tool", "name": "weather"}
    asked: dict[str, Any] = {"model": "demo", "max_tokens": 200, "tools": [TOOL], "tool_choice": choice}
    message = client.messages.create(messages=ASKED, **asked)
    (block,) = message.content
    assert block.type == "tool_use"
    jsonschema.validate(block.input, SCHEMA)
    with client.messages.stream(messages=ASKED, **asked) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[0].type == "tool_use"
    jsonschema.validate(final.content[0].input, SCHEMA)


def test_errors(client: anthropic.Anthropic) -> None:
    picture: Any = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.messages.create(model="demo", max_tokens=5, messages=picture)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="other", max_tokens=5, messages=ASKED)
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(model="demo", max_tokens=5, messages=ASKED)
