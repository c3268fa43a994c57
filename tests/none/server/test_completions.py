"""Completions and chat: shapes, streams, usage, logprobs, echo, many prompts."""

import asyncio
import threading
from typing import Any

import pytest
from http_fakes import Caller, FakeEngine, words

from tradewind.base.errors import EngineFailed
from tradewind.engine.client import Delta
from tradewind.protocol.request import FinishReason
from tradewind.protocol.sampling import SamplingParams
from tradewind.server.service import Limits
from tradewind.text.generation import GenerationDefaults

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]


async def test_a_completion_in_one_piece() -> None:
    answer = await Caller().post(TEXT, {"model": "alias", "prompt": "abc"}, x_request_id="my-id")
    body = answer.json()
    assert answer.headers["x-request-id"] == "my-id"
    assert (body["id"], body["object"], body["model"]) == ("cmpl-my-id", "text_completion", "alias")
    assert body["choices"] == [
        {"index": 0, "text": "Hi there", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 8,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("ab", [[97, 98]]),
        (["a", "b"], [[97], [98]]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [5]], [[97], [5]]),
    ],
)
async def test_the_forms_of_a_prompt(prompt: Any, tokens: list[list[int]]) -> None:
    caller = Caller()
    answer = await caller.post(TEXT, {"prompt": prompt, "n": 2})
    assert [job["prompt_tokens"] for job in caller.engine.submitted] == tokens
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(2 * len(tokens)))


@pytest.mark.parametrize(("most", "kept"), [(2, "de"), (9, "abcde"), (-1, "abcde")])
async def test_the_end_of_a_prompt(most: int, kept: str) -> None:
    caller = Caller()
    answer = await caller.post(TEXT, {"prompt": "abcde", "truncate_prompt_tokens": most, "echo": True})
    assert answer.json()["choices"][0]["text"] == f"{kept}Hi there"
    assert bytes(caller.engine.submitted[0]["prompt_tokens"]).decode() == kept
    await caller.post(CHAT, {"messages": USER, "truncate_prompt_tokens": most})
    assert len(caller.engine.submitted[1]["prompt_tokens"]) == (most if most > 0 else len("user: hi\nassistant:"))


async def test_a_prompt_is_cut_to_what_the_context_has_room_for() -> None:
    caller = Caller()
    await caller.post(TEXT, {"prompt": "a" * 600, "truncate_prompt_tokens": -1, "max_tokens": 12})
    assert len(caller.engine.submitted[0]["prompt_tokens"]) == 500
    for wrong in (0, -2):
        answer = await caller.post(TEXT, {"prompt": "a", "truncate_prompt_tokens": wrong})
        assert (answer.status, answer.error()["param"]) == (400, "truncate_prompt_tokens")


async def test_parameters_reach_the_engine_over_the_models_defaults() -> None:
    engine = FakeEngine(defaults=GenerationDefaults(temperature=0.6, top_k=20, max_new_tokens=99))
    caller = Caller(engine)
    await caller.post(
        TEXT, {"prompt": "a", "top_k": 5, "stop": "x", "seed": 3, "logit_bias": {"7": -2}, "n": 2, "best_of": 2}
    )
    await caller.post(
        CHAT, {"messages": USER, "max_tokens": 3, "max_completion_tokens": 4, "priority": 2, "cache_salt": "s"}
    )
    await caller.post(CHAT, {"messages": USER, "temperature": 0})
    first, second, third = (job["params"] for job in engine.submitted)
    assert (first.temperature, first.top_k, first.stop, first.seed) == (0.6, 5, ["x"], 3)
    assert (first.logit_bias, first.n, first.max_tokens) == ({7: -2}, 2, 16)
    assert second.max_tokens == 4
    assert (engine.submitted[1]["priority"], engine.submitted[1]["cache_salt"]) == (2, "s")
    assert (third.temperature, third.max_tokens) == (0, 99)


async def test_chat_renders_roles_and_parts() -> None:
    caller = Caller()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": parts}]
    answer = await caller.post(
        CHAT, {"messages": messages, "chat_template_kwargs": {"x": 1}, "reasoning_effort": "low"}
    )
    assert bytes(caller.engine.submitted[0]["prompt_tokens"]) == b"system: be\nuser: onetwo\nassistant:"
    assert caller.engine.tokenizer.chat_template.options["variables"] == {"x": 1, "reasoning_effort": "low"}
    choice = answer.json()["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Hi there", "refusal": None}
    await caller.post(CHAT, {"messages": USER, "continue_final_message": True})
    assert bytes(caller.engine.submitted[1]["prompt_tokens"]) == b"user: hi"


async def test_chat_without_a_template_is_refused() -> None:
    engine = FakeEngine()
    engine.tokenizer.chat_template = None
    answer = await Caller(engine).post(CHAT, {"messages": USER})
    assert (answer.status, answer.error()["param"]) == (400, "messages")
    assert "--chat-template" in answer.error()["message"]


async def test_a_chat_stream() -> None:
    answer = await Caller().post(CHAT, {"messages": USER, "stream": True, "stream_options": {"include_usage": True}})
    *chunks, usage, done = answer.events()
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 8
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hi there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_chunks_have_no_usage_unless_asked_and_always_when_asked_for_that() -> None:
    plain = await Caller().post(CHAT, {"messages": USER, "stream": True})
    assert all("usage" not in chunk for chunk in plain.events()[:-1])
    options = {"include_usage": True, "continuous_usage_stats": True}
    always = await Caller().post(TEXT, {"prompt": "a", "stream": True, "stream_options": options})
    *chunks, last, _ = always.events()
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == list(range(1, 9))
    assert last["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("path", [TEXT, CHAT])
async def test_a_stream_of_several_choices_says_the_same_as_the_whole(path: str) -> None:
    body: dict[str, Any] = {"n": 3, "logprobs": 1} if path == TEXT else {"n": 3, "logprobs": True, "top_logprobs": 1}
    body |= {"prompt": ["a", "b"]} if path == TEXT else {"messages": USER}
    whole = (await Caller().post(path, body)).json()
    texts: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    for chunk in (await Caller().post(path, {**body, "stream": True})).events()[:-1]:
        for choice in chunk["choices"]:
            text = choice["text"] if path == TEXT else choice["delta"].get("content", "")
            texts[choice["index"]] = texts.get(choice["index"], "") + text
            part = choice["logprobs"] or {"tokens": [], "content": []}
            logprobs.setdefault(choice["index"], []).extend(part["tokens" if path == TEXT else "content"])
    for choice in whole["choices"]:
        assert texts[choice["index"]] == (choice["text"] if path == TEXT else choice["message"]["content"])
        assert logprobs[choice["index"]] == choice["logprobs"]["tokens" if path == TEXT else "content"]
    assert len(whole["choices"]) == len(texts) == (6 if path == TEXT else 3)


@pytest.mark.parametrize("path", [TEXT, CHAT])
async def test_plain_chunks_carry_their_choice(path: str) -> None:
    body: dict[str, Any] = {"prompt": ["a", "b"]} if path == TEXT else {"messages": USER}
    texts: dict[int, str] = {}
    for chunk in (await Caller().post(path, {**body, "n": 2, "stream": True})).events()[:-1]:
        (choice,) = chunk["choices"]
        said = choice["text"] if path == TEXT else choice["delta"].get("content", "")
        texts[choice["index"]] = texts.get(choice["index"], "") + said
    assert texts == dict.fromkeys(range(4 if path == TEXT else 2), "Hi there")


async def test_completion_logprobs_with_echo() -> None:
    body = {"prompt": "ab", "max_tokens": 2, "logprobs": 2, "echo": True}
    choice = (await Caller().post(TEXT, body)).json()["choices"][0]
    assert choice["text"] == "abHi"
    assert choice["logprobs"]["tokens"] == ["a", "b", "H", "i"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -0.5, -0.5]
    assert choice["logprobs"]["top_logprobs"][2] == {"H": -0.5, "\x01": -0.75}
    streamed = (await Caller().post(TEXT, {**body, "stream": True})).events()[:-1]
    joined: dict[str, list[Any]] = {name: [] for name in choice["logprobs"]}
    for chunk in streamed:
        for name, values in chunk["choices"][0]["logprobs"].items():
            joined[name] += values
    assert joined == choice["logprobs"]
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == "abHi"


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_without_new_tokens_is_the_prompt_alone(stream: bool) -> None:
    body = {"prompt": "ab", "max_tokens": 0, "logprobs": 0, "echo": True, "stream": stream}
    answer = await Caller().post(TEXT, body)
    choices = [answer.json()["choices"][0]] if not stream else [event["choices"][0] for event in answer.events()[:-1]]
    assert [choice["text"] for choice in choices] == ["ab"]
    assert choices[0]["logprobs"]["token_logprobs"] == [None, -1.0]
    assert choices[0]["finish_reason"] == "length"
    if not stream:
        assert answer.json()["usage"]["completion_tokens"] == 0


async def test_chat_logprobs() -> None:
    body = {"messages": USER, "logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    content = (await Caller().post(CHAT, body)).json()["choices"][0]["logprobs"]["content"]
    assert content[0]["token"] == "H"
    assert content[0]["bytes"] == [72]
    assert [entry["token"] for entry in content[0]["top_logprobs"]] == ["H", "\x01"]
    none = (await Caller().post(CHAT, {**body, "top_logprobs": 0})).json()["choices"][0]["logprobs"]["content"]
    assert none[0]["top_logprobs"] == []


async def test_prompt_logprobs_and_token_ids() -> None:
    body = {"prompt": "ab", "prompt_logprobs": 0, "return_token_ids": True, "max_tokens": 1}
    choice = (await Caller().post(TEXT, body)).json()["choices"][0]
    assert choice["prompt_logprobs"] == [None, {"98": {"logprob": -1.0, "rank": 1, "decoded_token": "b"}}]
    assert (choice["prompt_token_ids"], choice["token_ids"]) == ([97, 98], [72])
    chat = (await Caller().post(CHAT, {"messages": USER, "prompt_logprobs": 0, "return_token_ids": True})).json()
    assert len(chat["prompt_logprobs"]) == len(chat["prompt_token_ids"])
    as_ids = await Caller().post(TEXT, {"prompt": "a", "logprobs": 0, "return_tokens_as_token_ids": True})
    assert as_ids.json()["choices"][0]["logprobs"]["tokens"][0] == "token_id:72"


async def test_an_engine_that_dies_in_mid_stream_is_said_and_nothing_follows() -> None:
    def script(params: SamplingParams) -> list[Any]:
        return [*words(params)[:2], EngineFailed("the engine died")]

    answer = await Caller(FakeEngine(script=script)).post(TEXT, {"prompt": "a", "stream": True})
    assert answer.status == 200
    assert answer.complete
    *_, error = answer.events()
    assert error["error"] == {
        "message": "the engine died",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        (FinishReason.DEADLINE, 504, "deadline_exceeded"),
        (FinishReason.ERROR, 500, "engine_failed"),
        (FinishReason.REFUSED, 400, None),
    ],
)
async def test_choices_that_fail_are_errors(reason: FinishReason, status: int, code: str) -> None:
    def script(params: SamplingParams) -> list[Any]:
        return [*words(params)[:1], [Delta(index=0, text="", token_ids=[], finish_reason=reason, message="nan")]]

    caller = Caller(FakeEngine(script=script))
    whole = await caller.post(TEXT, {"prompt": "a", "timeout": 2})
    assert (whole.status, whole.error()["code"]) == (status, code)
    streamed = await caller.post(TEXT, {"prompt": ["a", "b"], "stream": True, "timeout": 2})
    assert streamed.events()[-1]["error"]["code"] == code
    assert all(stream.aborted for stream in caller.engine.streams)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_a_client_that_goes_away_aborts_its_streams(stream: bool, prompt: Any) -> None:
    gone = asyncio.Event()

    async def wait_long() -> None:
        gone.set()
        for _ in range(50):
            await asyncio.sleep(0)

    def script(params: SamplingParams) -> list[Any]:
        return [*words(params)[:2], wait_long, *words(params)[2:]]

    caller = Caller(FakeEngine(script=script))
    body = b'{"prompt": %s, "stream": %s}' % (
        str(prompt).replace("'", '"').encode() if isinstance(prompt, list) else b'"a"',
        b"true" if stream else b"false",
    )
    answer = await asyncio.wait_for(caller.call("POST", TEXT, body, {"content-type": "application/json"}, gone), 5)
    assert all(fake.aborted for fake in caller.engine.streams)
    assert b"[DONE]" not in answer.body


class StuckConnection:
    """One whose buffer is full until it is cut, or until what waits in it has been taken, `taken` bytes a look."""

    def __init__(self, taken: int) -> None:
        self.cut = asyncio.Event()
        self.freed = asyncio.Event()
        self._unsent = 10
        self._taken = taken
        self._inbox = [{"type": "http.request", "body": b'{"prompt": "a", "stream": true}', "more_body": False}]

    def scope(self) -> dict[str, Any]:
        extensions = {"tradewind.drop": self._drop, "tradewind.unsent": self._look}
        return {
            "type": "http", "method": "POST", "path": TEXT, "raw_path": b"", "query_string": b"", "root_path": "",
            "scheme": "http", "http_version": "1.1", "server": ("x", 1), "client": ("x", 1), "headers": [],
            "extensions": extensions,
        }  # fmt: skip

    async def receive(self) -> dict[str, Any]:
        if self._inbox:
            return self._inbox.pop()
        await self.cut.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self.freed.wait()

    def _drop(self) -> None:
        self.cut.set()
        self.freed.set()

    def _look(self) -> int:
        self._unsent -= self._taken
        if self._unsent <= 0:
            self.freed.set()
        return self._unsent


@pytest.mark.parametrize(("taken", "dropped"), [(0, True), (1, False)])
async def test_a_reader_that_stops_is_dropped_and_a_slow_one_is_not(taken: int, dropped: bool) -> None:
    caller = Caller(limits=Limits(write_timeout_s=0.1))
    stuck = StuckConnection(taken)
    await asyncio.wait_for(caller.app(stuck.scope(), stuck.receive, stuck.send), 5)
    assert stuck.cut.is_set() == dropped
    assert caller.engine.streams[0].aborted
    count = b'tradewind:slow_readers_total{model_name="tiny"} %d.0' % dropped
    assert count in (await caller.get("/metrics")).body


@pytest.mark.parametrize(("path", "body"), [(TEXT, {"prompt": "a"}), (CHAT, {"messages": USER})])
async def test_no_line_end_of_unicode_tears_an_event(path: str, body: dict[str, Any]) -> None:
    text = "a\x85\u2028b\\\u2029\u201cc"
    answer = await Caller(FakeEngine(script=lambda params: words(params, text))).post(path, {**body, "stream": True})
    assert len(answer.body.decode().splitlines()) == answer.body.count(b"\n")
    choices = [choice for event in answer.events()[:-1] for choice in event["choices"]]
    said = [choice["text"] if path == TEXT else choice["delta"].get("content") or "" for choice in choices]
    assert "".join(said) == text


async def test_ignored_fields_are_said() -> None:
    answer = await Caller().post(TEXT, {"prompt": "a", "user": "me", "frobnicate": 1, "nothing": None})
    assert answer.status == 200
    assert answer.headers["x-tradewind-ignored"] == "user, frobnicate"


async def test_tokenize_and_detokenize() -> None:
    caller = Caller()
    answer = await caller.post("/tokenize", {"prompt": "ab", "return_token_strs": True})
    assert answer.json() == {"count": 2, "max_model_len": 512, "tokens": [97, 98], "token_strs": ["a", "b"]}
    chat = await caller.post("/tokenize", {"messages": USER})
    assert chat.json()["count"] == len("user: hi\nassistant:")
    assert (await caller.post("/detokenize", {"tokens": [104, 105]})).json() == {"prompt": "hi"}


@pytest.mark.parametrize("path", [TEXT, "/tokenize"])
async def test_long_texts_do_not_hold_up_streams(path: str) -> None:
    for prompt, is_long in (("a", False), ("a" * 9000, True), *([(["a" * 100] * 100, True)] if path == TEXT else [])):
        caller = Caller()
        assert (await caller.post(path, {"prompt": prompt})).status == 200
        assert (threading.get_ident() in caller.engine.tokenizer.encoded_in) != is_long


async def test_names_of_many_tokens_do_not_hold_up_streams() -> None:
    caller = Caller()
    assert (await caller.post("/tokenize", {"prompt": "abc", "return_token_strs": True})).status == 200
    assert threading.get_ident() not in caller.engine.tokenizer.named_in


@pytest.mark.parametrize(("path", "logprobs"), [(TEXT, {"logprobs": 2}), (CHAT, {"logprobs": True, "top_logprobs": 2})])
async def test_answers_with_log_probabilities_are_put_together_apart(path: str, logprobs: dict[str, Any]) -> None:
    caller = Caller()
    asked = {"prompt": "a"} if path == TEXT else {"messages": USER}
    assert (await caller.post(path, {**asked, **logprobs, "n": 2})).json()["choices"][1]["logprobs"]
    assert caller.engine.tokenizer.named_in
    assert threading.get_ident() not in caller.engine.tokenizer.named_in
