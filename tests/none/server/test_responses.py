"""OpenAI's Responses, with an engine that says what it is told to."""

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from http_fakes import Answer, Caller, FakeEngine, FakeTemplate, words
from hypothesis import given
from hypothesis import strategies as st

from tradewind.base.errors import EngineFailed, NotFound
from tradewind.server.responses.store import ResponseStore, Stored
from tradewind.server.service import Limits

ROUTE = "/v1/responses"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "name": "weather", "description": "Of a city.", "parameters": PARAMETERS, "strict": True}
ALLOWED = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
ARGUMENTS = '{"city": "Paris"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
THINKING = "{% if tools %}<tool_call>{% endif %}<think></think>"
EVERYTHING = f"<think>Hm.</think>\n\nLet me see.\n{CALL}\n{CALL}"

Check = Callable[[str, Any], None]


def caller(text: str = "Hi there", template: str = THINKING, **config: Any) -> Caller:
    engine = FakeEngine(script=lambda params: words(params, text))
    engine.tokenizer.chat_template = FakeTemplate()
    engine.tokenizer.chat_template.source = template
    return Caller(engine, **config)


async def ask(made: Caller, asked: Any = "hi", **fields: Any) -> Answer:
    return await made.post(ROUTE, {"model": "tiny", "input": asked, **fields})


async def ask_well(made: Caller, asked: Any = "hi", **fields: Any) -> dict[str, Any]:
    answer = await ask(made, asked, **fields)
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def events_of(made: Caller, asked: Any = "hi", **fields: Any) -> list[dict[str, Any]]:
    answer = await ask(made, asked, stream=True, **fields)
    parts = answer.body.decode().split("\n\n")
    assert parts.pop() == ""
    events = []
    for number, part in enumerate(parts):
        name, data = part.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
        assert events[-1]["sequence_number"] == number
    return events


def prompt_of(made: Caller, place: int = -1) -> str:
    return bytes(made.engine.submitted[place]["prompt_tokens"]).decode()


@pytest.fixture(scope="module")
def check(shared_data: Any) -> Check:
    """Checks a value against a schema of OpenAI's document."""
    components = json.loads((shared_data / "specs" / "openai-openapi.json").read_text())["components"]

    def check_value(schema: str, value: Any) -> None:
        wanted = {"$ref": f"#/components/schemas/{schema}", "components": components}
        jsonschema.Draft202012Validator(wanted).validate(value)

    return check_value


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_a_text(check: Check) -> None:
    made = caller()
    response = await ask_well(made, instructions="Be kind.", max_output_tokens=200, metadata={"a": "b"}, user="me")
    check("Response", response)
    (item,) = response["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hi there", "annotations": [], "logprobs": []}]
    assert (response["status"], response["error"], response["incomplete_details"]) == ("completed", None, None)
    assert (response["model"], response["metadata"], response["store"]) == ("tiny", {"a": "b"}, True)
    assert response["usage"]["output_tokens"] == 8
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert prompt_of(made) == "system: Be kind.\nuser: hi\nassistant:"
    assert made.engine.submitted[0]["params"].max_tokens == 200


async def test_a_limit() -> None:
    response = await ask_well(caller(), max_output_tokens=3)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"
    events = await events_of(caller(), max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hi "


async def test_reasoning_text_and_calls(check: Check) -> None:
    response = await ask_well(caller(EVERYTHING), tools=[TOOL])
    check("Response", response)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, message, call, other = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Hm."}]
    assert message["content"][0]["text"] == "Let me see.\n"
    assert (call["name"], call["arguments"], call["status"]) == ("weather", ARGUMENTS, "completed")
    assert call["call_id"] != other["call_id"]
    assert response["tools"] == [TOOL]
    assert 3 <= response["usage"]["output_tokens_details"]["reasoning_tokens"] <= len("<think>Hm.</think>")
    alone = await ask_well(caller(EVERYTHING), tools=[TOOL], parallel_tool_calls=False)
    assert [item["type"] for item in alone["output"]] == ["reasoning", "message", "function_call"]


async def test_calls_that_are_none_are_text() -> None:
    broken = '<tool_call>\n{"name": "weather", "arguments": {city}}\n</tool_call>'
    response = await ask_well(caller(f"<think>Hm.</think>{broken}"), tools=[TOOL])
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"][0]["text"] == broken


async def test_an_answer_of_nothing_is_an_empty_message() -> None:
    response = await ask_well(caller("\n", template=THINKING))
    assert [item["content"][0]["text"] for item in response["output"]] == [""]


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        ("required", True),
        ({"type": "function", "name": "weather"}, True),
        ("auto", False),
        (ALLOWED, False),
        ({**ALLOWED, "mode": "required"}, True),
    ],
)
async def test_tool_choice(choice: Any, forced: bool) -> None:
    made = caller(CALL)
    response = await ask_well(made, tools=[TOOL], tool_choice=choice)
    assert [item["type"] for item in response["output"]] == ["function_call"]
    assert response["tool_choice"] == choice
    assert (made.engine.submitted[0]["params"].structured_outputs is not None) is forced


async def test_formats() -> None:
    made = caller()
    form = {"type": "json_schema", "name": "city", "schema": PARAMETERS, "strict": True}
    response = await ask_well(made, text={"format": form})
    assert response["text"] == {"format": form}
    assert made.engine.submitted[-1]["params"].structured_outputs.json == PARAMETERS
    await ask_well(made, text={"format": {"type": "json_object"}})
    assert made.engine.submitted[-1]["params"].structured_outputs.json_object is True
    await ask_well(made, text={"format": {"type": "text"}})
    assert made.engine.submitted[-1]["params"].structured_outputs is None


async def test_effort_reaches_the_template_and_sampling_the_engine() -> None:
    made = caller()
    response = await ask_well(made, reasoning={"effort": "low"}, temperature=0.5, top_p=0.25, top_k=7, seed=3)
    assert made.engine.tokenizer.chat_template.options["variables"] == {"reasoning_effort": "low"}
    params = made.engine.submitted[0]["params"]
    assert (params.temperature, params.top_p, params.top_k, params.seed) == (0.5, 0.25, 7, 3)
    assert (response["temperature"], response["top_p"], response["reasoning"]["effort"]) == (0.5, 0.25, "low")


@pytest.mark.parametrize("fields", [{"top_logprobs": 2}, {"include": ["message.output_text.logprobs"]}])
async def test_logprobs(fields: dict[str, Any], check: Check) -> None:
    response = await ask_well(caller(), **fields)
    check("Response", response)
    logprobs = response["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in logprobs) == "Hi there"
    assert len(logprobs[0]["top_logprobs"]) == fields.get("top_logprobs", 0)
    events = await events_of(caller(), **fields)
    pieces = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert list(itertools.chain(*pieces)) == logprobs


# --- events ----------------------------------------------------------------------------------------------------------


async def test_events(check: Check) -> None:
    events = await events_of(caller(EVERYTHING), tools=[TOOL])
    for event in events:
        check("ResponseStreamEvent", event)
    kinds = [kind for kind, _ in itertools.groupby(event["type"].removeprefix("response.") for event in events)]
    assert kinds == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done") * 2,
        "completed",
    ]
    final = events[-1]["response"]
    begun = {**final, "status": "in_progress", "output": [], "completed_at": None}
    del begun["usage"]
    assert events[0]["response"] == begun
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    texts = ["", "", "", ""]
    for event in events:
        texts[event.get("output_index", 0)] += event.get("delta", "")
        assert event.get("item_id") in (None, final["output"][event.get("output_index", 0)]["id"])
    assert texts == ["Hm.", "Let me see.\n", ARGUMENTS, ARGUMENTS]


async def test_a_stream_that_fails(check: Check) -> None:
    made = caller()
    made.engine.script = lambda params: [*words(params)[:3], EngineFailed("it died")]
    events = await events_of(made)
    assert events[-1]["type"] == "response.failed"
    check("ResponseStreamEvent", events[-1])
    failed = events[-1]["response"]
    assert (failed["status"], failed["error"]) == ("failed", {"code": "server_error", "message": "it died"})
    assert failed["output"][0]["content"][0]["text"] == "Hi "
    assert (await made.get(f"{ROUTE}/{failed['id']}")).json() == failed


# --- conversations ---------------------------------------------------------------------------------------------------


async def test_items_become_messages() -> None:
    made = caller()
    text = {"type": "input_text", "text": "Weather?"}
    call = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": ARGUMENTS}
    await ask_well(
        made,
        [
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "user", "content": [text]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
            call,
            {"type": "function_call_output", "call_id": "c", "output": "Rain"},
            {**call, "call_id": "d"},
            {"type": "function_call_output", "call_id": "d", "output": [{"type": "input_text", "text": "Sun"}]},
        ],
        instructions="Be kind.",
    )
    messages = made.engine.tokenizer.chat_template.messages
    function = {"name": "weather", "arguments": ARGUMENTS}
    assert messages == [
        {"role": "system", "content": "Be kind.\n\nBe brief."},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "reasoning": "Hm.",
            "content": "Let me see.",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "Rain"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "d", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "d", "content": "Sun"},
    ]


async def test_a_response_follows_on_another() -> None:
    made = caller()
    first = await ask_well(made, "One", instructions="Be kind.")
    second = await ask_well(made, "Two", previous_response_id=first["id"])
    assert prompt_of(made) == "user: One\nassistant: Hi there\nuser: Two\nassistant:"
    assert second["previous_response_id"] == first["id"]
    await events_of(made, "Three", previous_response_id=second["id"], instructions="Be brief.")
    talk = "user: One\nassistant: Hi there\nuser: Two\nassistant: Hi there\nuser: Three\nassistant:"
    assert prompt_of(made) == f"system: Be brief.\n{talk}"


async def test_stored_responses_are_read_listed_and_deleted(check: Check) -> None:
    made = caller(EVERYTHING)
    first = await ask_well(made, "One", tools=[TOOL])
    events = await events_of(made, "Two", tools=[TOOL], previous_response_id=first["id"])
    second = events[-1]["response"]
    assert (await made.get(f"{ROUTE}/{second['id']}")).json() == second
    listed = (await list_items(made, second["id"], order="asc")).json()
    check("ResponseItemList", listed)
    assert [item["type"] for item in listed["data"]] == [
        *("message", "reasoning", "message", "function_call", "function_call", "message")
    ]
    assert listed["has_more"] is False
    newest = (await list_items(made, second["id"], limit="2")).json()
    assert newest["data"] == listed["data"][:-3:-1]
    assert newest["has_more"] is True
    rest = (await list_items(made, second["id"], after=newest["last_id"])).json()
    assert rest["data"] == listed["data"][:-2][::-1]
    gone = await made.call("DELETE", f"{ROUTE}/{first['id']}", b"", {})
    assert gone.json() == {"id": first["id"], "object": "response", "deleted": True}
    for answer in (
        await made.get(f"{ROUTE}/{first['id']}"),
        await list_items(made, first["id"]),
        await made.call("DELETE", f"{ROUTE}/{first['id']}", b"", {}),
    ):
        assert (answer.status, answer.error()["param"]) == (404, "response_id")
    after = await ask(made, previous_response_id=first["id"])
    assert (after.status, after.error()["param"]) == (404, "previous_response_id")
    assert (await made.get(f"{ROUTE}/{second['id']}")).status == 200


async def list_items(made: Caller, response_id: str, **query: str) -> Answer:
    return await made.get(f"{ROUTE}/{response_id}/input_items", query="&".join(map("=".join, query.items())))


@pytest.mark.parametrize(("name", "value"), [("limit", "0"), ("limit", "x"), ("order", "up"), ("after", "nothing")])
async def test_wrong_pages(name: str, value: str) -> None:
    made = caller()
    response = await ask_well(made)
    answer = await list_items(made, response["id"], **{name: value})
    assert (answer.status, answer.error()["param"]) == (400, name)


async def test_references_to_items() -> None:
    made = caller()
    said = (await ask_well(made, "One"))["output"][0]
    await ask_well(made, [{"type": "item_reference", "id": said["id"]}, {"role": "user", "content": "Two"}])
    assert prompt_of(made) == "assistant: Hi there\nuser: Two\nassistant:"


async def test_what_is_not_to_be_stored_is_not() -> None:
    made = caller()
    response = await ask_well(made, store=False)
    assert (await made.get(f"{ROUTE}/{response['id']}")).status == 404


async def test_the_store_is_bounded_and_the_oldest_go() -> None:
    made = caller(limits=Limits(stored_responses=2))
    ids = [(await ask_well(made))["id"] for _ in range(3)]
    assert [(await made.get(f"{ROUTE}/{one}")).status for one in ids] == [404, 200, 200]
    made = caller(limits=Limits(stored_bytes=12000))
    ids = [(await ask_well(made, "x" * 2000))["id"] for _ in range(4)]
    assert [(await made.get(f"{ROUTE}/{one}")).status for one in ids] == [404, 404, 200, 200]
    large = await ask_well(made, "x" * 12000)
    assert (await made.get(f"{ROUTE}/{large['id']}")).status == 404
    assert (await made.get(f"{ROUTE}/{ids[-1]}")).status == 200


async def test_input_tokens() -> None:
    made = caller()
    answer = await made.post(f"{ROUTE}/input_tokens", {"input": "hi", "instructions": "Be kind."})
    prompt = "system: Be kind.\nuser: hi\nassistant:"
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": len(prompt)}
    assert made.engine.submitted == []
    wrong = await made.post(f"{ROUTE}/input_tokens", {"input": []})
    assert (wrong.status, wrong.error()["param"]) == (400, "input")


async def test_truncation_drops_the_oldest_turns() -> None:
    made = caller()
    system = {"role": "system", "content": "Be kind."}
    talk = [system, *({"role": "user", "content": f"{number}" * 100} for number in range(9))]
    await ask_well(made, talk, truncation="auto", max_output_tokens=100)
    prompt = prompt_of(made)
    assert prompt.startswith(f"system: Be kind.\nuser: {'6' * 100}\n")
    assert len(prompt) + 100 <= 512
    await ask_well(made, talk[:3], truncation="auto")
    assert prompt_of(made).count("user: ") == 2


async def test_of_many_turns_no_more_are_written_than_it_takes() -> None:
    made = caller()
    for count in (1, 31, 32, 33, 200):
        talk = [{"role": "user", "content": f"{number:03}" * 30} for number in range(count)]
        await ask_well(made, talk, truncation="auto", max_output_tokens=100)
        fitting = [number for number in range(count) if f"{number:03}" * 30 in prompt_of(made)]
        assert fitting == list(range(max(0, count - 4), count))
    written = made.engine.tokenizer.chat_template.written
    assert max(written[-8:]) <= 16, written  # messages, of the 200


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 3}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "name": "x", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output"),
        ({"input": [{"type": "reasoning", "content": [3]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{**TOOL, "name": "other"}], "tool_choice": ALLOWED}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 99}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"metadata": {"a": 3}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"include": ["everything"]}, "include[0]"),
        ({"truncation": "some"}, "truncation"),
        ({"background": True, "store": False}, "store"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    answer = await ask(caller(), **{"asked": "hi", **fields} if "input" not in fields else fields)
    assert answer.status == (404 if param == "previous_response_id" else 400), answer.body
    assert answer.error()["param"] == param, answer.body


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["", "x", "user", "text", "refusal", "message"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "role"]), inner, max_size=3)
    ),
    max_leaves=4,
)
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["input_text", "refusal"])}, optional={"text": ODD, "refusal": ODD})
)
KINDS = ["message", "function_call", "function_call_output", "reasoning", "item_reference"]
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | ODD},
    optional={
        "role": st.sampled_from(["user", "assistant", "system"]) | ODD,
        **dict.fromkeys(("content", "output", "summary"), PARTS | ODD | st.just("x")),
        **dict.fromkeys(("id", "call_id", "name", "arguments"), ODD),
    },
)


@given(st.lists(ITEMS, max_size=3))
def test_no_items_are_too_odd(items: list[dict[str, Any]]) -> None:
    answer = asyncio.run(ask(caller(), items))
    assert answer.status in (200, 400), answer.body
    assert answer.status == 200 or answer.error()["param"].startswith("input")


async def test_too_many_items_are_counted_as_such() -> None:
    answer = await ask(caller(), [{"role": "user", "content": "a"}] * 10_001)
    assert answer.error()["message"].startswith("input has 10001 entries")
    answer = await ask(caller(), [{"role": "user", "content": "a"}] * 10_000, instructions="b")
    assert answer.error()["message"].startswith("input has 10001 entries")


async def test_what_has_no_effect_is_said() -> None:
    answer = await ask(
        caller(), user="me", text={"verbosity": "low"}, reasoning={"summary": "auto"}, service_tier="flex",
        include=["reasoning.encrypted_content"],
    )  # fmt: skip
    names = set(answer.headers["x-tradewind-ignored"].split(", "))
    assert names == {"user", "text.verbosity", "reasoning.summary", "service_tier", "include"}


async def test_a_response_belongs_to_its_key() -> None:
    made = caller(api_key="secret")
    key = {"authorization": "Bearer secret"}
    response = (await made.post(ROUTE, {"input": "hi"}, **key)).json()
    assert (await made.get(f"{ROUTE}/{response['id']}", **key)).status == 200
    assert (await made.get(f"{ROUTE}/{response['id']}")).status == 401


def test_the_store_gives_nothing_to_another_owner() -> None:
    store = ResponseStore(10, 100_000, 10)
    store.add("resp_1", Stored("me", b"{}", (b"[]",), b'[{"id":"msg_1"}]'), ["msg_1"])
    assert store.find_item("msg_1", "me") == {"id": "msg_1"}
    assert store.find_item("msg_1", "you") is None
    for act in (store.get, store.delete):
        with pytest.raises(NotFound):
            act("resp_1", "you")
    store.delete("resp_1", "me")
    assert (store.size_bytes, store.find_item("msg_1", "me")) == (0, None)
