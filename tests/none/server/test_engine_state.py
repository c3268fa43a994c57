"""The engine from inside, over HTTP: its state and the timelines of requests."""

import pytest
from http_fakes import Answer, Caller, FakeEngine

from tradewind.engine.client import RequestTimings
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import FREE, BlockMap, EngineView, RowState, RowView
from tradewind.server import timelines
from tradewind.server.keys import Caller as KeyOwner
from tradewind.server.timelines import Timelines
from tradewind.server.trace import Trace

TEXT = "/v1/completions"


def row(request_id: int) -> RowView:
    return RowView(
        request_id=request_id, state=RowState.DECODE, slot=0, age_s=1.5, prompt_tokens=4, computed_tokens=6,
        output_tokens=3, max_tokens=9, blocks=2, preemptions=0, priority=0,
    )  # fmt: skip


def timings(request_id: int, finish_reason: FinishReason | None = FinishReason.STOP) -> RequestTimings:
    return RequestTimings(
        request_id=request_id, index=0, finish_reason=finish_reason, prompt_tokens=4, completion_tokens=3,
        cached_tokens=0, submitted_s=1000.0, e2e_s=2.0, queue_s=0.25, ttft_s=0.5,
    )  # fmt: skip


def trace(request_id: str, sequences: list[int]) -> Trace:
    return Trace(request_id, True, KeyOwner("one"), 999.0, None, sequences=sequences)


async def test_the_state() -> None:
    blocks = BlockMap(owners=[0, FREE], lengths=[2, 62])
    caller = Caller(FakeEngine(seen=EngineView(stats=EngineStats(running=2), rows=[row(0), row(7)], blocks=blocks)))
    await caller.post(TEXT, {"prompt": "a"}, x_request_id="mine")
    caller.engine.listener.on_step([0.02], [0.003, 0.003])
    answer = await caller.get("/engine/state")
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    state = answer.json()
    assert (state["status"], state["model"], state["restarts"]) == ("ready", "tiny", 0)
    assert state["stats"]["running"] == 2
    assert state["engine"]["num_blocks"] == 64
    assert state["blocks"] == {"cell_blocks": 1, "runs": [[0, 2], [-1, 62]]}
    assert [(seen["request"], seen["request_id"], seen["state"]) for seen in state["rows"]] == [
        ("mine", 0, "decode"),
        (None, 7, "decode"),
    ]
    histogram = state["latency"]["inter_token"]
    assert sum(histogram["counts"]) == 2
    assert len(histogram["counts"]) == len(histogram["bounds"]) + 1


async def test_without_an_engine_the_state_says_why() -> None:
    state = (await Caller(FakeEngine(state="restarting", failure="it was killed")).get("/engine/state")).json()
    assert (state["status"], state["message"]) == ("restarting", "it was killed")
    assert (state["rows"], state["blocks"]) == ([], None)


async def test_both_routes_want_the_key() -> None:
    caller = Caller(api_key="sesame")
    for path in ("/engine/state", "/engine/requests/x"):
        assert (await caller.get(path)).status == 401
    assert (await caller.get("/engine/state", authorization="Bearer sesame")).status == 200


async def timeline(caller: Caller, request_id: str) -> Answer:
    return await caller.get(f"/engine/requests/{request_id}")


async def test_a_timeline() -> None:
    caller = Caller()
    await caller.post(TEXT, {"prompt": ["a", "b"]}, x_request_id="a/b")
    caller.engine.past = {0: timings(0), 1: timings(1, None)}
    answer = (await timeline(caller, "a/b")).json()
    assert answer["request_id"] == "a/b"
    done, running = answer["sequences"]
    offset = done["submitted"]
    assert done["finish_reason"] == "stop"
    assert done["admitted"] == pytest.approx(offset + 0.25)
    assert done["first_token"] == pytest.approx(offset + 0.5)
    assert done["finished"] == pytest.approx(offset + 2.0)
    assert [step - offset for step, _ in done["steps"]] == pytest.approx([0.5, 1.0, 1.5])
    assert {rows for _, rows in done["steps"]} == {3}
    assert (running["finish_reason"], running["finished"]) == (None, None)
    unknown = await timeline(caller, "other")
    assert (unknown.status, unknown.error()["code"]) == (404, "not_found")


def test_timelines_of_others_are_unknown() -> None:
    known = Timelines()
    known.add(trace("a", [1, 2]))
    assert known.of("a", "one") is not None
    assert known.of("a", "two") is None
    assert (known.name_of(2, "one"), known.name_of(2, "two"), known.name_of(3, "one")) == ("a", None, None)


def test_timelines_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timelines, "REQUESTS", 3)
    monkeypatch.setattr(timelines, "SEQUENCES", 10)
    known = Timelines()
    for number in range(6):
        known.add(trace(str(number), [number]))
    assert [known.of(str(number), "one") is not None for number in range(6)] == [False] * 3 + [True] * 3
    assert known.name_of(0, "one") is None
    known.add(trace("large", list(range(100, 120))))
    assert known.of("5", "one") is None
    assert known.name_of(119, "one") == "large"
    known.add(trace("large", [7]))
    assert (known.name_of(119, "one"), known.name_of(7, "one")) == (None, "large")
