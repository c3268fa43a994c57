"""Responses made in the background, with an engine that waits until it is told to go on."""

import asyncio
import json
from pathlib import Path
from typing import Any

from http_fakes import Answer, Caller, FakeEngine, words

from tradewind.base.errors import EngineFailed
from tradewind.protocol.sampling import SamplingParams
from tradewind.server.key_file import add_key
from tradewind.server.keys import Rates
from tradewind.server.responses.event_log import EventLog
from tradewind.server.service import Limits

ROUTE = "/v1/responses"
TEXT = "Hi there"


class Held:
    """A server whose engine says one letter for each `say`."""

    def __init__(self, error: Exception | None = None, **config: Any) -> None:
        self.turns = asyncio.Semaphore(0)
        self._error = error
        self.engine = FakeEngine(script=self._script)
        self.server = Caller(self.engine, **config)

    def _script(self, params: SamplingParams) -> list[Any]:
        said = [item for letter in words(params, TEXT) for item in (self.turns.acquire, letter)]
        return [*said[:4], self._error] if self._error else said

    async def say(self, letters: int) -> None:
        for _ in range(letters):
            self.turns.release()
        for _ in range(20 * letters):
            await asyncio.sleep(0)

    async def begin(self, **fields: Any) -> dict[str, Any]:
        answer = await self.server.post(ROUTE, {"input": "hi", "background": True, **fields})
        assert answer.status == 200, answer.body
        return dict(answer.json())

    async def get(self, response_id: str, query: str = "") -> Answer:
        return await self.server.get(f"{ROUTE}/{response_id}", query)

    async def cancel(self, response_id: str) -> Answer:
        return await self._act("POST", f"{ROUTE}/{response_id}/cancel")

    async def delete(self, response_id: str) -> Answer:
        return await self._act("DELETE", f"{ROUTE}/{response_id}")

    async def _act(self, method: str, path: str) -> Answer:
        acting = asyncio.create_task(self.server.call(method, path, b"", {}))
        await asyncio.sleep(0)
        await self.say(1)  # the engine's turn, in which it sees that nobody wants more
        return await acting


def events_of(answer: Answer) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.body
    parts = answer.body.decode().split("\n\n")
    assert parts.pop() == ""
    return [json.loads(part.split("\ndata: ")[1]) for part in parts]


async def begin_stream(held: Held, **fields: Any) -> tuple[str, "asyncio.Task[Answer]", asyncio.Event]:
    """A response's id, the answer to its request, and the client's going away."""
    gone, answer = asyncio.Event(), Answer(0, {}, b"", False)
    body = json.dumps({"input": "hi", "background": True, "stream": True, **fields}).encode()
    headers = {"content-type": "application/json"}
    asked = asyncio.create_task(held.server.call("POST", ROUTE, body, headers, gone, answer=answer))
    await held.say(1)
    return events_of(answer)[0]["response"]["id"], asked, gone


async def test_it_is_asked_after_until_it_is_there() -> None:
    held = Held()
    begun = await held.begin()
    assert (begun["status"], begun["background"], begun["output"]) == ("queued", True, [])
    assert (await held.get(begun["id"])).json()["status"] == "queued"
    await held.say(3)
    now = (await held.get(begun["id"])).json()
    assert (now["status"], now["output"], now["id"]) == ("in_progress", [], begun["id"])
    await held.say(5)
    done = (await held.get(begun["id"])).json()
    assert (done["status"], done["background"]) == ("completed", True)
    assert done["output"][0]["content"][0]["text"] == TEXT
    assert done["usage"]["output_tokens"] == 8
    await held.say(8)
    after = await held.server.post(ROUTE, {"input": "and?", "previous_response_id": begun["id"]})
    assert after.status == 200, after.body


async def test_what_is_not_finished_cannot_be_followed_on_but_looked_at() -> None:
    held = Held()
    begun = await held.begin()
    after = await held.server.post(ROUTE, {"input": "and?", "previous_response_id": begun["id"]})
    assert (after.status, after.error()["param"]) == (400, "previous_response_id")
    items = (await held.server.get(f"{ROUTE}/{begun['id']}/input_items")).json()
    assert items["data"][0]["content"][0]["text"] == "hi"
    assert (await held.get(begun["id"], "stream=true")).error()["param"] == "stream"


async def test_it_is_cancelled_once_and_for_all() -> None:
    held = Held()
    begun = await held.begin()
    await held.say(2)
    cancelled = await held.cancel(begun["id"])
    assert (cancelled.status, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["output"][0]["content"][0]["text"] == "Hi"
    assert cancelled.json()["output"][0]["status"] == "incomplete"
    assert held.engine.streams[0].aborted
    assert (await held.cancel(begun["id"])).json() == cancelled.json() == (await held.get(begun["id"])).json()
    ended = await held.begin()
    await held.say(9)
    assert (await held.cancel(ended["id"])).json()["status"] == "completed"


async def test_only_what_is_in_the_background_is_cancelled() -> None:
    server = Caller(FakeEngine())
    plain = (await server.post(ROUTE, {"input": "hi"})).json()
    for response_id, status in ((plain["id"], 400), ("resp_1", 404)):
        answer = await server.call("POST", f"{ROUTE}/{response_id}/cancel", b"", {})
        assert answer.status == status, answer.body


async def test_deleting_it_ends_it() -> None:
    held = Held()
    begun = await held.begin()
    await held.say(1)
    deleted = await held.delete(begun["id"])
    assert deleted.json()["deleted"] is True
    assert held.engine.streams[0].aborted
    assert (await held.get(begun["id"])).status == 404


async def test_a_fault_of_the_engine_or_of_ours_is_its_status() -> None:
    for error, message in ((EngineFailed("it broke"), "it broke"), (ValueError("oops"), "internal error")):
        held = Held(error)
        begun = await held.begin()
        await held.say(3)
        failed = (await held.get(begun["id"])).json()
        assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
        assert failed["error"]["message"].startswith(message)


async def test_a_stream_that_is_left_goes_on_and_is_taken_up_again() -> None:
    held = Held()
    response_id, asked, gone = await begin_stream(held)
    await held.say(2)
    gone.set()
    first = events_of(await asked)
    assert [event["type"] for event in first[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [first[0]["response"]["status"], first[2]["response"]["status"]] == ["queued", "in_progress"]
    seen = first[-1]["sequence_number"]
    again = asyncio.create_task(held.get(response_id, f"stream=true&starting_after={seen}"))
    await held.say(5)
    second = events_of(await again)
    assert [event["sequence_number"] for event in first + second] == list(range(len(first) + len(second)))
    assert second[-1]["type"] == "response.completed"
    deltas = [event["delta"] for event in first + second if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == TEXT == second[-1]["response"]["output"][0]["content"][0]["text"]
    assert events_of(await held.get(response_id, "stream=true")) == first + second
    assert (await held.get(response_id)).json() == second[-1]["response"]
    assert events_of(await held.get(response_id, "stream=true&starting_after=999")) == []


async def test_a_cancelled_stream_says_so_and_ends() -> None:
    held = Held()
    response_id, asked, _ = await begin_stream(held)
    await held.cancel(response_id)
    last = events_of(await asked)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")


async def test_wrong_places_to_start_after() -> None:
    held = Held()
    response_id, _, _ = await begin_stream(held)
    for place in ("-1", "x", "1.5"):
        answer = await held.get(response_id, f"stream=true&starting_after={place}")
        assert (answer.status, answer.error()["param"]) == (400, "starting_after")


async def test_old_events_make_room() -> None:
    held = Held(limits=Limits(event_log_bytes=4000))
    response_id, asked, _ = await begin_stream(held)
    await held.say(7)
    await asked
    answer = await held.get(response_id, "stream=true")
    assert (answer.status, answer.error()["param"]) == (400, "starting_after")
    first = int(answer.error()["message"].split("up to ")[1].split()[0])
    events = events_of(await held.get(response_id, f"stream=true&starting_after={first}"))
    assert events[0]["sequence_number"] == first + 1
    assert events[-1]["type"] == "response.completed"


async def test_a_reader_that_is_too_slow_is_told() -> None:
    log = EventLog(10)
    log.add([b"12345", b"12345"])
    reading = log.follow(-1)
    assert await anext(reading) == b"1234512345"
    log.add([b"abcde", b"abcde", b"abcde"])
    assert b'"code":"slow_reader"' in await anext(reading)


async def test_no_more_than_so_many_at_once() -> None:
    held = Held(limits=Limits(background_responses=2))
    ids = [(await held.begin())["id"] for _ in range(2)]
    refused = await held.server.post(ROUTE, {"input": "hi", "background": True})
    assert refused.status == 429
    assert held.engine.streams[2].aborted
    await held.cancel(ids[0])
    await held.begin()


async def test_its_caller_pays_until_it_is_over(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "alice", Rates(concurrency=1))
    held = Held(api_key_file=str(tmp_path / "keys"))
    mine = {"authorization": f"Bearer {key}"}
    begun = (await held.server.post(ROUTE, {"input": "hi", "background": True}, **mine)).json()
    assert (await held.server.post(ROUTE, {"input": "hi"}, **mine)).status == 429
    await held.say(8)
    assert (await held.server.get(f"{ROUTE}/{begun['id']}", **mine)).json()["status"] == "completed"
    held.turns = asyncio.Semaphore(99)
    assert (await held.server.post(ROUTE, {"input": "hi"}, **mine)).status == 200
