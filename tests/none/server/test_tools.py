"""Tools and reasoning on /v1/chat/completions, with an engine that says what it is told to."""

import json
from typing import Any

import pytest
from http_fakes import Caller, FakeEngine, FakeTemplate, FakeTokenizer, words

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": PARAMETERS}}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HERMES = "{% if tools %}<tool_call>{% endif %}"
THINKING = HERMES + "<think></think>"


def caller(text: str, template: str = HERMES) -> Caller:
    engine = FakeEngine(script=lambda params: words(params, text))
    engine.tokenizer.chat_template = FakeTemplate()
    engine.tokenizer.chat_template.source = template
    return Caller(engine)


async def ask(made: Caller, **fields: Any) -> dict[str, Any]:
    answer = await made.post(CHAT, {"messages": USER, "tools": [WEATHER, NOW], **fields})
    assert answer.status == 200, answer.body
    return dict(answer.json()["choices"][0])


async def stream(made: Caller, **fields: Any) -> tuple[dict[str, Any], str]:
    """The deltas put together, as a client does it, and the finish reason."""
    answer = await made.post(CHAT, {"messages": USER, "tools": [WEATHER, NOW], "stream": True, **fields})
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    finish = ""
    for event in answer.events()[:-1]:
        (choice,) = event["choices"]
        delta = choice["delta"]
        assert delta.get("reasoning") == delta.get("reasoning_content")
        for name in ("content", "reasoning_content"):
            message[name] += delta.get(name) or ""
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append({"id": call["id"], "type": call["type"], "function": call["function"]})
            else:
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    assert answer.events()[-1] == "[DONE]"
    return message, finish


HARMONY = "<|channel|>{% if tools %}{% endif %}"
ANALYSIS = "<|channel|>analysis<|message|>Which city?<|end|><|start|>assistant"
HARMONY_CALL = f'{ANALYSIS}<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{{"city": "Paris"}}'


async def test_harmony() -> None:
    made = caller(HARMONY_CALL, HARMONY)
    choice = await ask(made)
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == (None, "Which city?")
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    message, finish = await stream(caller(HARMONY_CALL, HARMONY))
    assert (finish, message["content"], message["reasoning_content"]) == ("tool_calls", "", "Which city?")
    assert message["tool_calls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    text = f"{ANALYSIS}<|channel|>final<|message|>It rains."
    choice = await ask(caller(text, HARMONY), tools=None)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It rains.", "stop")
    broken = f"{HARMONY_CALL}}}"
    choice = await ask(caller(broken, HARMONY))
    assert "tool_calls" not in choice["message"]
    assert broken.endswith(choice["message"]["content"])


async def test_harmony_under_a_grammar() -> None:
    made = caller(HARMONY_CALL, HARMONY)
    await ask(made, tool_choice="required")
    asked = made.engine.submitted[-1]["params"].structured_outputs
    assert '<|channel|> "commentary to=functions.weather "' in asked.grammar
    await ask(made, tools=None, response_format={"type": "json_object"})
    asked = made.engine.submitted[-1]["params"].structured_outputs
    assert 'analysis* <|channel|> "final" <|message|> answer' in asked.grammar
    assert (asked.reasoning_begin, asked.reasoning_end) == (None, None)
    assert [field for _, field in made.engine.compiled][-2:] == ["response_format"] * 2


async def test_a_call() -> None:
    made = caller(f"Let me see. {CALL}")
    choice = await ask(made)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see. "
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert made.engine.tokenizer.chat_template.options["tools"] == [WEATHER, NOW]
    assert made.engine.submitted[0]["params"].structured_outputs is None


async def test_a_streamed_call() -> None:
    message, finish = await stream(caller(f"Let me see. {CALL}\n{CALL}"))
    assert finish == "tool_calls"
    assert message["content"] == "Let me see. "
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city": "Paris"}'}
    ] * 2
    assert len({call["id"] for call in message["tool_calls"]}) == 2


async def test_only_one_call_where_calls_are_not_parallel() -> None:
    text = f"{CALL}\n{CALL}"
    assert len((await ask(caller(text), parallel_tool_calls=False))["message"]["tool_calls"]) == 1
    message, _ = await stream(caller(text), parallel_tool_calls=False)
    assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nnot JSON\n</tool_call>",
        '<tool_call>{"name": "unheard_of", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {city}}</tool_call>',
        '<tool_call>{"name": "weather", "argum',
        "no call at all",
    ],
)
async def test_what_is_no_call_is_text(text: str) -> None:
    choice = await ask(caller(text))
    assert choice["message"]["content"] == text
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


async def test_none_means_that_the_model_does_not_hear_of_tools() -> None:
    made = caller(CALL)
    choice = await ask(made, tool_choice="none")
    assert choice["message"]["content"] == CALL
    assert made.engine.tokenizer.chat_template.options["tools"] is None


@pytest.mark.parametrize(
    ("tool_choice", "finish", "names"),
    [
        ("required", "tool_calls", {"weather", "now"}),
        ({"type": "function", "function": {"name": "weather"}}, "stop", {"weather"}),
    ],
)
async def test_a_forced_call_has_a_grammar(tool_choice: Any, finish: str, names: set[str]) -> None:
    made = caller(CALL)
    choice = await ask(made, tool_choice=tool_choice)
    assert choice["finish_reason"] == finish
    assert choice["message"]["content"] is None
    asked = made.engine.submitted[0]["params"].structured_outputs
    assert {name for name in ("weather", "now") if name in asked.grammar} == names
    fields = [field for _, field in made.engine.compiled]
    assert fields[1:] == [f"tools[{index}].function.parameters" for index in range(len(names))] + ["tools"]


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_only_allowed_tools_may_be_called(mode: str) -> None:
    made = caller(CALL)
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "now"}}]}
    choice = await ask(made, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert "weather" in choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    asked = made.engine.submitted[0]["params"].structured_outputs
    assert (asked is not None and "now" in asked.grammar and "weather" not in asked.grammar) is (mode == "required")
    assert [tool["function"]["name"] for tool in made.engine.tokenizer.chat_template.options["tools"]] == ["now"]


async def test_a_function_without_parameters_takes_none() -> None:
    made = caller("")
    bare = {"type": "function", "function": {"name": "now"}}
    await made.post(CHAT, {"messages": USER, "tools": [bare], "tool_choice": "required"})
    assert '"additionalProperties": false' in made.engine.submitted[0]["params"].structured_outputs.grammar


async def test_a_forced_call_and_a_format_do_not_go_together() -> None:
    answer = await caller("").post(
        CHAT,
        {
            "messages": USER,
            "tools": [NOW],
            "tool_choice": "required",
            "response_format": {"type": "json_object"},
        },
    )
    assert (answer.status, answer.error()["param"]) == (400, "tool_choice")


async def test_a_template_without_tools_is_told_in_words() -> None:
    made = caller('{"name": "weather", "arguments": {"city": "Paris"}}', template="{{ messages }}")
    conversation = [
        *USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    choice = await ask(made, messages=conversation)
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    prompt = bytes(made.engine.submitted[0]["prompt_tokens"]).decode()
    assert prompt.startswith("system: You can call these functions:")
    assert json.dumps(PARAMETERS) in prompt
    assert 'assistant: {"name": "now", "arguments": {}}' in prompt
    assert "tool: noon" in prompt


async def test_reasoning() -> None:
    text = f"<think>Which city?</think>\n\nLet me see. {CALL}"
    choice = await ask(caller(text, THINKING))
    assert choice["message"]["reasoning_content"] == choice["message"]["reasoning"] == "Which city?"
    assert choice["message"]["content"] == "Let me see. "
    assert len(choice["message"]["tool_calls"]) == 1
    message, finish = await stream(caller(text, THINKING))
    assert (message["reasoning_content"], message["content"], finish) == ("Which city?", "Let me see. ", "tool_calls")


async def test_reasoning_that_the_prompt_began_or_ended() -> None:
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>\n"}]
    made = caller("Hm.</think>Yes", THINKING)
    choice = await ask(made, messages=begun, tools=None, add_generation_prompt=False)
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["content"] == "Yes"
    ended = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>\n\n</think>\n\n"}]
    choice = await ask(caller("Yes", THINKING), messages=ended, tools=None, add_generation_prompt=False)
    assert choice["message"]["content"] == "Yes"
    assert "reasoning_content" not in choice["message"]


async def test_reasoning_is_left_out() -> None:
    made = caller(f"<think>Which city?</think>Let me see. {CALL}", THINKING)
    choice = await ask(made, include_reasoning=False)
    assert not choice["message"].keys() & {"reasoning", "reasoning_content"}
    message, _ = await stream(made, include_reasoning=False)
    assert (message["reasoning_content"], message["content"]) == ("", "Let me see. ")


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_that_is_sent_back_reaches_the_template_by_both_names(name: str) -> None:
    made = caller("x", THINKING)
    await ask(made, messages=[*USER, {"role": "assistant", "content": "a", name: "Hm."}, *USER])
    _, said, _ = made.engine.tokenizer.chat_template.messages
    assert (said["reasoning"], said["reasoning_content"]) == ("Hm.", "Hm.")


async def test_reasoning_effort_reaches_the_template() -> None:
    made = caller("Yes", THINKING)
    await ask(made, reasoning_effort="none", chat_template_kwargs={"other": 1})
    assert made.engine.tokenizer.chat_template.options["variables"] == {
        "reasoning_effort": "none",
        "enable_thinking": False,
        "other": 1,
    }


async def test_logprobs_and_usage_go_with_taken_apart_answers() -> None:
    made = caller(f"Hm. {CALL}")
    fields = {"logprobs": True, "return_token_ids": True}
    answer = await made.post(CHAT, {"messages": USER, "tools": [WEATHER], "stream": True, **fields})
    choices = [event["choices"][0] for event in answer.events()[:-1]]
    tokens = [token for choice in choices for token in choice.get("token_ids") or []]
    logprobs = [entry for choice in choices for entry in (choice["logprobs"] or {}).get("content") or []]
    assert len(tokens) == len(logprobs) == len(f"Hm. {CALL}")


class MarkTokenizer(FakeTokenizer):
    """One whose marks are tokens of their own."""

    def id_of(self, token: str) -> int | None:
        return {"<think>": 1, "</think>": 2}.get(token)


def with_marks(text: str, template: str = THINKING) -> Caller:
    made = caller(text, template)
    tokenizer, made.engine.tokenizer = made.engine.tokenizer, MarkTokenizer()
    made.engine.tokenizer.chat_template = tokenizer.chat_template
    return made


@pytest.mark.parametrize(("path", "fields"), [(CHAT, {"messages": USER}), ("/v1/completions", {"prompt": "hi"})])
@pytest.mark.parametrize("budget", [0, 7, None])
async def test_a_budget_of_reasoning(path: str, fields: dict[str, Any], budget: int | None) -> None:
    made = with_marks("<think>Hm.</think>Hi")
    answer = await made.post(path, {**fields, "thinking_token_budget": budget})
    assert "x-tradewind-ignored" not in answer.headers
    assert made.engine.submitted[0]["params"].thinking_token_budget == budget


@pytest.mark.parametrize("made", [caller("Hi"), caller("Hi", THINKING), with_marks("Hi", HARMONY)])
async def test_a_budget_where_reasoning_has_no_marks_that_are_tokens_is_ignored(made: Caller) -> None:
    answer = await made.post(CHAT, {"messages": USER, "thinking_token_budget": 7})
    assert answer.headers["x-tradewind-ignored"] == "thinking_token_budget"
    assert made.engine.submitted[0]["params"].thinking_token_budget is None


async def test_a_budget_does_not_go_with_beam_search() -> None:
    answer = await with_marks("Hi").post(CHAT, {"messages": USER, "thinking_token_budget": 7, "use_beam_search": True})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "thinking_token_budget")


async def test_a_budget_with_a_schema() -> None:
    made = with_marks("<think>Hm.</think>{}")
    await ask(made, tools=None, response_format={"type": "json_object"}, thinking_token_budget=7)
    params = made.engine.submitted[0]["params"]
    assert params.thinking_token_budget == 7
    assert (params.structured_outputs.reasoning_begin, params.structured_outputs.reasoning_end) == (1, 2)
