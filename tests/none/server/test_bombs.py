"""Bodies that would keep the event loop busy, or go too deep, are refused quickly: every stream waits for that."""

import time

import pytest
from http_fakes import Caller

USER = '"messages": [{"role": "user", "content": "a"}]'
MESSAGE_ROUTE = "/v1/messages"
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
COUNT = 500_000
MOST_S = 1.0  # most of it is decoding; without the bounds each of these takes several seconds

# MANY: the third entry, half a million times; FIELDS: as many fields with it as their value.
BODIES: dict[str, tuple[str, str, str]] = {
    "messages": (CHAT, '{"messages": [MANY]}', "1"),
    "roles": (CHAT, '{"messages": [MANY]}', '{"role":""}'),
    "parts": (CHAT, '{"messages": [{"role": "user", "content": [MANY]}]}', "1"),
    "tools": (CHAT, '{USER, "tools": [MANY]}', "1"),
    "stop": (CHAT, '{USER, "stop": [MANY]}', "1"),
    "choice": (CHAT, '{USER, "structured_outputs": {"choice": [MANY]}}', "1"),
    "biases": (CHAT, '{USER, "logit_bias": {FIELDS}}', '""'),
    "fields": (CHAT, "{USER, FIELDS}", "1"),
    "token ids": (TEXT, '{"prompt": "a", "allowed_token_ids": [MANY]}', '""'),
    "prompts": (TEXT, '{"prompt": [MANY]}', '"a"'),
    "prompt ids": (TEXT, '{"prompt": [MANY, "a"]}', "1"),
    "turns": (MESSAGE_ROUTE, '{"max_tokens": 1, "messages": [MANY]}', "1"),
    "blocks": (MESSAGE_ROUTE, '{"max_tokens": 1, "messages": [], "system": [MANY]}', "1"),
    "items": ("/v1/responses", '{"input": [MANY]}', "1"),
    "functions": ("/v1/responses", '{"input": "a", "tools": [MANY]}', "1"),
    "tokens": ("/detokenize", '{"tokens": [MANY]}', '""'),
}


@pytest.mark.parametrize("name", BODIES)
async def test_half_a_million_of_anything(name: str) -> None:
    path, body, item = BODIES[name]
    fields = ",".join(f'"{index}":{item}' for index in range(COUNT)) if "FIELDS" in body else ""
    raw = body.replace("USER", USER).replace("FIELDS", fields).replace("MANY", ",".join([item] * COUNT)).encode()
    caller = Caller()
    start_s = time.thread_time()
    answer = await caller.post(path, raw=raw)
    assert time.thread_time() - start_s < MOST_S
    assert answer.status == 400
    assert len(answer.body) < 1000


FUNCTION = '{"type": "function", "function": {"name": "f", "parameters": {"a": DEEP}}}'
CALL = '{"type": "tool_use", "id": "a", "name": "b", "input": {"a": DEEP}}'
DEEP = {
    "chat_template_kwargs": (CHAT, '{USER, "chat_template_kwargs": {"a": DEEP}}'),
    "message": (CHAT, '{"messages": [{"role": "user", "content": "a", "tool_calls": DEEP}]}'),
    "tools": (CHAT, '{USER, "tools": [FUNCTION]}'),
    "schema": (CHAT, '{USER, "response_format": {"type": "json_schema", "json_schema": {"schema": {"a": DEEP}}}}'),
    "prompt": (TEXT, '{"prompt": DEEP}'),
    "unknown": (TEXT, '{"prompt": "a", "unknown": DEEP}'),
    "metadata": (MESSAGE_ROUTE, '{"max_tokens": 1, USER, "metadata": {"a": DEEP}}'),
    "block": (MESSAGE_ROUTE, '{"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": DEEP}]}]}'),
    "input": (MESSAGE_ROUTE, '{"max_tokens": 1, "messages": [{"role": "assistant", "content": [CALL]}]}'),
}


@pytest.mark.parametrize("depth", [50, 400, 900, 1100, 100_000])
@pytest.mark.parametrize("name", DEEP)
async def test_depth(name: str, depth: int) -> None:
    path, body = DEEP[name]
    body = body.replace("USER", USER).replace("FUNCTION", FUNCTION).replace("CALL", CALL)
    answer = await Caller().post(path, raw=body.replace("DEEP", "[" * depth + "]" * depth).encode())
    assert answer.status in (200, 400), answer.body
    if depth > 1000:
        assert "deep" in answer.json()["error"]["message"]
