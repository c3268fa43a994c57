"""Every kind of bad input gets OpenAI's error shape, the right status and the path of the field."""

import asyncio
from typing import Any

import pytest
from http_fakes import Caller, FakeEngine

from tradewind.base.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Draining,
    EngineFailed,
    EngineUnavailable,
    Overloaded,
    RequestError,
)
from tradewind.server.app import POSTS

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]

TEXT_PART = {"type": "text", "text": "a"}
LARGE = {"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(20_000)}}
LARGE_TOOL = {"type": "function", "function": {"name": "f", "parameters": LARGE}}
TOOL = {"type": "function", "function": {"name": "f"}}
BAD_FIELDS: list[tuple[str, dict[str, Any], str]] = [
    (TEXT, {"prompt": "a", "temperature": -1}, "temperature"),
    (TEXT, {"prompt": "a", "temperature": "hot"}, "temperature"),
    (TEXT, {"prompt": "a", "temperature": True}, "temperature"),
    (TEXT, {"prompt": "a", "max_tokens": "5"}, "max_tokens"),
    (TEXT, {"prompt": "a", "max_tokens": 5.5}, "max_tokens"),
    (TEXT, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
    (TEXT, {"prompt": "a", "top_p": 0}, "top_p"),
    (TEXT, {"prompt": "a", "n": 0}, "n"),
    (TEXT, {"prompt": "a", "n": 10**30}, "n"),
    (TEXT, {"prompt": "a", "stream": "yes"}, "stream"),
    (TEXT, {"prompt": "a", "stop": [1]}, "stop[0]"),
    (TEXT, {"prompt": "a", "stop": 1}, "stop"),
    (TEXT, {"prompt": "a", "stop": [""]}, "stop"),
    (TEXT, {"prompt": "a", "logit_bias": {"999999": 1}}, "logit_bias"),
    (TEXT, {"prompt": "a", "logit_bias": {"-1": 1}}, "logit_bias"),
    (TEXT, {"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
    (TEXT, {"prompt": "a", "logit_bias": {"1": "a"}}, "logit_bias.1"),
    (TEXT, {"prompt": "a", "logit_bias": [1]}, "logit_bias"),
    (TEXT, {"prompt": "a", "logprobs": 21}, "logprobs"),
    (TEXT, {"prompt": "a", "best_of": 2, "n": 3}, "best_of"),
    (TEXT, {"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
    (TEXT, {"prompt": "a", "best_of": 1000}, "best_of"),
    (TEXT, {"prompt": "a", "suffix": "end"}, "suffix"),
    (TEXT, {"prompt": "a", "seed": 1.5}, "seed"),
    *((CHAT, {"messages": USER, "thinking_token_budget": wrong}, "thinking_token_budget") for wrong in (-1, 1.5, "7")),
    (TEXT, {"prompt": "a", "timeout": -1}, "timeout"),
    (TEXT, {"prompt": "a", "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    (TEXT, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    (TEXT, {"prompt": "a", "length_penalty": 2}, "length_penalty"),
    (TEXT, {"prompt": "a", "early_stopping": True}, "early_stopping"),
    *(
        (route, {**asked, "use_beam_search": True, "n": 2, **fields}, next(iter(fields)))
        for route, asked in ((TEXT, {"prompt": "a"}), (CHAT, {"messages": USER}))
        for fields in (
            {"stream": True},
            {"temperature": 0.5},
            {"top_p": 0.5},
            {"stop": "x"},
            {"min_tokens": 2},
            {"logit_bias": {"1": 1}},
            {"response_format": {"type": "json_object"}},
            {"n": 11},
            {"length_penalty": 11},
        )
    ),
    (TEXT, {"prompt": "a", "use_beam_search": True, "best_of": 2, "n": 3}, "best_of"),
    (TEXT, {"prompt": "a", "use_beam_search": True, "echo": True, "logprobs": 1}, "echo"),
    (TEXT, {"prompt": "a", "response_format": {"type": "yaml"}}, "response_format.type"),
    (TEXT, {"prompt": "a", "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (TEXT, {"prompt": "a", "structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
    (TEXT, {"prompt": "a", "structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    (TEXT, {"prompt": "a", "guided_json": {"type": "object"}}, "guided_json"),
    (
        CHAT,
        {
            "messages": USER,
            "response_format": {"type": "json_object"},
            "structured_outputs": {"choice": ["a"]},
        },
        "structured_outputs",
    ),
    (TEXT, {"prompt": "a", "allowed_token_ids": []}, "allowed_token_ids"),
    (TEXT, {}, "prompt"),
    (TEXT, {"prompt": None}, "prompt"),
    (TEXT, {"prompt": 7}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": [1, "a"]}, "prompt[1]"),
    (TEXT, {"prompt": [1, True]}, "prompt[1]"),
    (TEXT, {"prompt": ["a", 1]}, "prompt[1]"),
    (TEXT, {"prompt": ["a", ""]}, "prompt[1]"),
    (TEXT, {"prompt": [[1], []]}, "prompt[1]"),
    (TEXT, {"prompt": [[1], [2.5]]}, "prompt[1][0]"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": USER * 10_001}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": [TEXT_PART] * 10_001}]}, "messages[0].content"),
    (CHAT, {"messages": USER, "tools": [LARGE_TOOL], "tool_choice": "required"}, "tools"),
    (CHAT, {"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
    (CHAT, {"messages": [*USER, {"content": "hi"}]}, "messages[1].role"),
    (CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    (CHAT, {"messages": USER, "logprobs": 3}, "logprobs"),
    (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, "tools[0].function"),
    (CHAT, {"messages": USER, "tools": [{"type": "other", "function": {"name": "f"}}]}, "tools[0].type"),
    (CHAT, {"messages": USER, "tools": [TOOL, TOOL]}, "tools[1].function.name"),
    (CHAT, {"messages": USER, "tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
    (CHAT, {"messages": USER, "tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
    (CHAT, {"messages": USER, "tool_choice": "required"}, "tool_choice"),
    (CHAT, {"messages": USER, "functions": [{"name": "f"}]}, "functions"),
    (CHAT, {"messages": USER, "chat_template": "{{ messages }}"}, "chat_template"),
    (CHAT, {"messages": USER * 20_000}, "messages"),
    (CHAT, {"messages": USER, "tools": [TOOL] * 129}, "tools"),
    (TEXT, {"prompt": "a", "logit_bias": {str(token): 1 for token in range(20_000)}}, "logit_bias"),
    (TEXT, {"prompt": "a", "allowed_token_ids": [1] * 300}, "allowed_token_ids"),
    (CHAT, {"messages": USER, "max_completion_tokens": 0}, "max_completion_tokens"),
    (CHAT, {"messages": USER, "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": USER, "add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": "a", "messages": USER}, "prompt"),
    ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
    ("/detokenize", {"tokens": [1, "a"]}, "tokens[1]"),
]


@pytest.mark.parametrize(("path", "body", "field"), BAD_FIELDS)
async def test_a_bad_field_is_named(path: str, body: dict[str, Any], field: str) -> None:
    answer = await Caller().post(path, {"model": "tiny", **body})
    assert answer.status == 400, answer.body
    error = answer.error()
    assert error["param"] == field
    assert error["type"] == "invalid_request_error"
    assert field.split("[")[0].split(".")[0] in error["message"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages should have at least 1 entry, not an empty list"),
        ({"response_format": "json_object"}, "response_format should be an object, not 'json_object'"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs should be an object, not 'x'"),
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "messages[0].tool_calls should be a valid list"),
        (
            {"tools": [{"type": "function", "function": {"name": ""}}]},
            "tools[0].function.name should have at least 1 character, not ''",
        ),
        ({"tools": [TOOL], "tool_choice": {"name": "f"}}, "tool_choice.function is missing"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs must be a whole number from 0 to 20, not 21"),
        ({"max_completion_tokens": -1}, "max_completion_tokens must be a whole number of at least 1, not -1"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
                "tool_choice": "required",
            },
            "tools[0].function.parameters.type should be 'object' in a call that is required, not 'array'",
        ),
    ],
)
async def test_what_is_wrong_is_said_in_words_of_the_request(fields: dict[str, Any], message: str) -> None:
    answer = await Caller().post(CHAT, {"messages": USER, **fields})
    assert answer.status == 400
    assert answer.error()["message"].startswith(message)
    assert message.startswith(answer.error()["param"])


async def test_variables_that_a_template_has_anyway_are_ignored() -> None:
    given = {"messages": [], "enable_thinking": False}
    answer = await Caller().post(CHAT, {"messages": USER, "chat_template_kwargs": given})
    assert answer.headers["x-tradewind-ignored"] == "chat_template_kwargs.messages"


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"", "empty"),
        (b'{"model": ', "not JSON"),
        (b'{"prompt": "a"} x', "not JSON"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "Infinity"),
        (b'{"temperature": 1e999}', "out of range"),
        (b'{"seed": ' + b"9" * 6000 + b"}", "out of range"),
        (b'{"prompt": "\xff\xfe"}', "UTF-8"),
        (b'{"prompt": "\\ud800"}', "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b"[" * 100_000, "deep"),
        (b"[1]", "object"),
        (b'"text"', "object"),
        (b"null", "object"),
    ],
)
@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_is_not_a_json_object_is_refused(path: str, raw: bytes, word: str) -> None:
    answer = await Caller().post(path, raw=raw)
    assert answer.status == 400
    assert word in answer.json()["error"]["message"]


async def test_an_unknown_model_names_those_served() -> None:
    answer = await Caller().post(TEXT, {"model": "gpt-9", "prompt": "a"})
    assert answer.status == 404
    assert answer.error()["code"] == "model_not_found"
    assert "'tiny', 'alias'" in answer.error()["message"]
    assert (await Caller().get("/v1/models/gpt-9")).status == 404


async def test_other_content_types_are_refused_and_none_is_taken_as_json() -> None:
    caller = Caller()
    wrong = await caller.call("POST", TEXT, b'{"prompt": "a"}', {"content-type": "text/plain"})
    assert (wrong.status, wrong.error()["code"]) == (415, "unsupported_media_type")
    for headers in ({}, {"content-type": "application/json; charset=utf-8"}):
        assert (await caller.call("POST", TEXT, b'{"prompt": "a"}', headers)).status == 200


async def test_a_large_body_is_refused_before_it_is_read() -> None:
    caller = Caller(max_body_bytes=1000)
    declared = await caller.call("POST", TEXT, [b"x"] * 3, {"content-length": "1001"})
    assert (declared.status, declared.error()["code"]) == (413, "body_too_large")
    pieces = [b"x" * 400] * 1000
    streamed = await caller.call("POST", TEXT, pieces, {"transfer-encoding": "chunked"})
    assert streamed.status == 413
    assert "1000 B" in streamed.error()["message"]


async def test_unknown_routes_and_methods_keep_the_shape() -> None:
    caller = Caller()
    lost = await caller.get("/v1/nothing")
    assert (lost.status, lost.error()["code"]) == (404, "not_found")
    wrong = await caller.get(CHAT)
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert "POST" in wrong.error()["message"]


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (ContextLengthExceeded("the prompt has 600 tokens, the context is 512", field="prompt"), 400, None),
        (Overloaded("queue full", retry_after_s=2.2), 429, "3"),
        (Draining("going", retry_after_s=5), 503, "5"),
        (EngineUnavailable("restarting", retry_after_s=0.1), 503, "1"),
        (EngineFailed("died"), 500, None),
        (RequestError("no", field="n"), 400, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_typed_errors_of_the_engine_map_to_statuses(
    error: Any, status: int, retry_after: str | None, stream: bool
) -> None:
    answer = await Caller(FakeEngine(refusal=error)).post(TEXT, {"prompt": "a", "stream": stream})
    assert answer.status == status
    assert answer.headers.get("retry-after") == retry_after
    assert answer.error()["message"] == error.message
    assert answer.error()["code"] == error.code


async def test_an_error_before_the_first_token_of_a_stream_is_an_ordinary_error() -> None:
    engine = FakeEngine(script=lambda params: [EngineFailed("the engine died")])
    answer = await Caller(engine).post(TEXT, {"prompt": "a", "stream": True})
    assert (answer.status, answer.error()["code"]) == (500, "engine_failed")


@pytest.mark.parametrize("state", ["starting", "restarting", "failed", "draining"])
async def test_an_engine_that_is_not_ready_answers_503(state: str) -> None:
    caller = Caller(FakeEngine(state=state, failure="why" if state == "failed" else None))
    for answer in (await caller.post(TEXT, {"prompt": "a"}), await caller.get("/v1/models")):
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert answer.error()["code"] == ("draining" if state == "draining" else "engine_unavailable")
    health = await caller.get("/health")
    assert health.status == (200 if state == "draining" else 503)
    assert health.json()["status"] == state
    assert (await caller.get("/ready")).status == 503


async def test_a_fault_of_ours_is_a_500_in_the_same_shape() -> None:
    engine = FakeEngine(script=lambda params: 1 / 0)
    answer = await Caller(engine).post(TEXT, {"prompt": "a"})
    assert (answer.status, answer.error()["type"]) == (500, "server_error")
    assert "division" not in answer.error()["message"]


async def test_a_client_that_stops_in_the_middle_of_its_body_leaves_no_work() -> None:
    caller = Caller()
    await asyncio.wait_for(caller.call("POST", TEXT, [b'{"prompt": "a"', None], {"content-length": "100"}), 5)
    assert not caller.engine.submitted


async def test_deadlines_are_read_from_field_and_header() -> None:
    caller = Caller(default_timeout_s=9.0)
    await caller.post(TEXT, {"prompt": "a"})
    await caller.post(TEXT, {"prompt": "a"}, x_request_timeout_s="2.5")
    await caller.post(TEXT, {"prompt": "a", "timeout": 1}, x_request_timeout_s="2.5")
    assert [job["timeout_s"] for job in caller.engine.submitted] == [9.0, 2.5, 1]
    for wrong in ("nan", "0", "soon"):
        answer = await caller.post(TEXT, {"prompt": "a"}, x_request_timeout_s=wrong)
        assert (answer.status, answer.error()["param"]) == (400, "x-request-timeout-s")


async def test_deadlines_end_as_504() -> None:
    error = DeadlineExceeded("late")
    answer = await Caller(FakeEngine(script=lambda params: [error])).post(TEXT, {"prompt": "a"})
    assert (answer.status, answer.error()["code"]) == (504, "deadline_exceeded")
