"""Anthropic's routes, with an engine that says what it is told to."""

import json
from typing import Any

import pytest
from http_fakes import Answer, Caller, FakeEngine, FakeTemplate, words

ROUTE = "/v1/messages"
USER = [{"role": "user", "content": "hi"}]
TOOL = {
    "name": "weather",
    "description": "Of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
THINKING = "{% if tools %}<tool_call>{% endif %}<think></think>"


def caller(text: str = "Hi there", template: str = THINKING, **config: Any) -> Caller:
    engine = FakeEngine(script=lambda params: words(params, text))
    engine.tokenizer.chat_template = FakeTemplate()
    engine.tokenizer.chat_template.source = template
    return Caller(engine, **config)


async def ask(made: Caller, **fields: Any) -> Answer:
    return await made.post(ROUTE, {"model": "tiny", "max_tokens": 200, "messages": USER, **fields})


async def events_of(made: Caller, **fields: Any) -> list[dict[str, Any]]:
    answer = await ask(made, stream=True, **fields)
    parts = answer.body.decode().split("\n\n")
    assert parts.pop() == ""
    events = []
    for part in parts:
        name, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def test_a_text() -> None:
    made = caller()
    answer = (await ask(made, system="Be kind.", stop_sequences=["x"], top_k=3)).json()
    assert answer["content"] == [{"type": "text", "text": "Hi there"}]
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "tiny")
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["usage"]["output_tokens"] == 8
    assert answer["usage"]["cache_read_input_tokens"] == 1
    sent = made.engine.submitted[0]
    assert bytes(sent["prompt_tokens"]).decode() == "system: Be kind.\nuser: hi\nassistant:"
    assert (sent["params"].stop, sent["params"].top_k, sent["params"].max_tokens) == (["x"], 3, 200)


async def test_a_limit() -> None:
    assert (await ask(caller(), max_tokens=3)).json()["stop_reason"] == "max_tokens"


async def test_blocks_of_reasoning_text_and_calls() -> None:
    text = f"<think>Hm.</think>\n\nLet me see.\n{CALL}\n{CALL}"
    answer = (await ask(caller(text), tools=[TOOL])).json()
    assert answer["stop_reason"] == "tool_use"
    kinds = [block["type"] for block in answer["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    assert answer["content"][0]["thinking"] == "Hm."
    assert answer["content"][2]["name"] == "weather"
    assert answer["content"][2]["input"] == {"city": "Paris"}
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    answer = (await ask(caller(text), tools=[TOOL], tool_choice=choice)).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use"]


async def test_events() -> None:
    events = await events_of(caller(f"<think>Hm.</think>\n\nLet me see.\n{CALL}"), tools=[TOOL])
    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["content"] == []
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    open_block, texts = -1, ["", "", ""]
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert event["index"] == open_block + 1
            open_block = event["index"]
        assert event["index"] == open_block
        if event["type"] == "content_block_delta":
            (text,) = (value for name, value in event["delta"].items() if name != "type")
            texts[open_block] += text
    assert texts == ["Hm.", "Let me see.\n", '{"city": "Paris"}']
    assert [event["type"] for event in events].count("content_block_stop") == 3


async def test_a_conversation_with_results_and_a_beginning() -> None:
    made = caller(template="plain")
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {"city": "X"}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "Rain"}]},
                {"type": "text", "text": "So?"},
            ],
        },
        {"role": "assistant", "content": "It will"},
    ]
    assert (await ask(made, messages=talk)).status == 200
    options = made.engine.tokenizer.chat_template.options
    assert options["continue_final_message"] is True
    assert options["add_generation_prompt"] is False
    prompt = bytes(made.engine.submitted[0]["prompt_tokens"]).decode()
    assert "tool: Rain\nuser: So?\nassistant: It will" in prompt


@pytest.mark.parametrize(
    ("choice", "forced"),
    [({"type": "any"}, True), ({"type": "tool", "name": "weather"}, True), ({"type": "auto"}, False)],
)
async def test_tool_choice(choice: dict[str, Any], forced: bool) -> None:
    made = caller(CALL)
    answer = (await ask(made, tools=[TOOL], tool_choice=choice)).json()
    assert answer["stop_reason"] == "tool_use"
    assert (made.engine.submitted[0]["params"].structured_outputs is not None) is forced


async def test_thinking_reaches_the_template() -> None:
    made = caller()
    await ask(made, thinking={"type": "disabled"})
    assert made.engine.tokenizer.chat_template.options["variables"] == {"enable_thinking": False}


async def test_count_tokens() -> None:
    made = caller()
    answer = await made.post(f"{ROUTE}/count_tokens", {"model": "tiny", "messages": USER, "system": "Be kind."})
    assert answer.json() == {"input_tokens": len("system: Be kind.\nuser: hi\nassistant:")}
    assert not made.engine.submitted


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"max_tokens": "many"},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"tools": [{"name": "x"}]},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "other"}},
        {"tool_choice": {"type": "any"}},
    ],
)
async def test_errors_have_anthropics_shape(fields: dict[str, Any]) -> None:
    answer = await ask(caller(), **fields)
    assert answer.status == 400, answer.body
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_the_key_in_anthropics_header() -> None:
    made = caller(api_key="secret")
    body = {"model": "tiny", "max_tokens": 5, "messages": USER}
    assert (await made.post(ROUTE, body, **{"x-api-key": "secret"})).status == 200
    assert (await made.post(ROUTE, body, **{"x-api-key": "wrong"})).status == 401


async def test_output_config_asks_for_json_and_for_effort() -> None:
    made = caller()
    schema = {"type": "object"}
    answer = await ask(made, output_config={"format": {"type": "json_schema", "schema": schema}, "effort": "low"})
    assert answer.status == 200
    ((asked, _),) = made.engine.compiled
    assert asked.json == schema
    assert made.engine.tokenizer.chat_template.options["variables"]["reasoning_effort"] == "low"


async def test_what_has_no_effect_is_said() -> None:
    answer = await ask(
        caller(),
        metadata={"user_id": "x"},
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"task_budget": {"total": 5}},
    )
    said = set(answer.headers["x-tradewind-ignored"].split(", "))
    assert said == {"metadata", "thinking.budget_tokens", "output_config.task_budget"}


@pytest.mark.parametrize("path", [ROUTE, f"{ROUTE}/count_tokens"])
async def test_errors_of_the_edge_and_of_the_router_have_the_shape_too(path: str) -> None:
    locked = caller(api_key="secret")
    for answer in (await locked.post(path, {}), await locked.get(path), await caller().get(path)):
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] in ("authentication_error", "invalid_request_error")


async def test_a_budget_of_thinking() -> None:
    made = caller("<think>Hm.</think>Hi")
    made.engine.tokenizer.id_of = lambda token: {"<think>": 1, "</think>": 2}.get(token)
    answer = await ask(made, thinking={"type": "enabled", "budget_tokens": 1024})
    assert "x-tradewind-ignored" not in answer.headers
    assert made.engine.submitted[0]["params"].thinking_token_budget == 1024
    for wrong in (-1, 1.5, "many"):
        answer = await ask(made, thinking={"type": "enabled", "budget_tokens": wrong})
        assert answer.status == 400
        assert "thinking.budget_tokens" in answer.json()["error"]["message"]
