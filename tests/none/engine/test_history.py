"""What an engine's client remembers of steps and sequences, and how it asks the engine how it looks."""

import array
import asyncio
import os
import signal
import time

import pytest

from tradewind.base.errors import EngineFailed, EngineUnavailable
from tradewind.engine import history
from tradewind.engine.history import History, TokenTime
from tradewind.engine.stream import RequestTimings
from tradewind.protocol.request import FinishReason
from tradewind.protocol.sampling import SamplingParams

ENDLESS = SamplingParams(max_tokens=400, ignore_eos=True)


def ids(*numbers):
    return array.array("q", numbers).tobytes()


def timings(request_id):
    return RequestTimings(
        request_id=request_id, index=0, finish_reason=FinishReason.STOP, prompt_tokens=1, completion_tokens=1,
        cached_tokens=0, submitted_s=0.0, e2e_s=1.0, queue_s=0.0, ttft_s=0.5,
    )  # fmt: skip


def test_tokens_are_found_in_their_steps():
    past = History()
    for at_s, rows in ((1.0, ids(4, 5)), (2.0, ids(5)), (3.0, ids()), (4.0, ids(4, 5, 6))):
        past.add_step(rows, at_s)
    assert past.tokens_of(5, 0.0) == [TokenTime(1.0, 2), TokenTime(2.0, 1), TokenTime(4.0, 3)]
    assert past.tokens_of(5, 1.5) == [TokenTime(2.0, 1), TokenTime(4.0, 3)]
    assert past.tokens_of(7, 0.0) == []


def test_the_memory_has_a_bound(monkeypatch):
    monkeypatch.setattr(history, "STEPS", 10)
    monkeypatch.setattr(history, "STEP_BYTES", 64)
    monkeypatch.setattr(history, "ENDED", 3)
    past = History()
    for step in range(50):
        past.add_step(ids(1), float(step))
        past.add_ended(timings(step))
    assert len(past.tokens_of(1, 0.0)) == 8  # 64 bytes
    assert [past.ended(number) is not None for number in (46, 47, 48, 49)] == [False, True, True, True]
    past.add_step(ids(*range(8)), 50.0)
    assert past.tokens_of(1, 0.0) == [TokenTime(50.0, 8)]


async def test_a_view_shows_what_runs(start_engine):
    engine = await start_engine({"cost_s": 0.005})
    assert (await engine.view()).rows == []
    streams = [engine.submit([index, 2, 3], ENDLESS) for index in range(3)]
    for stream in streams:
        await anext(stream)
    views = await asyncio.gather(*(engine.view() for _ in range(50)))
    assert len({id(view) for view in views}) == 1  # asked once, told to all
    assert [row.request_id for row in views[0].rows] == [stream.request_ids[0] for stream in streams]
    assert engine.stats == views[0].stats
    assert views[0].stats.running == 3
    for stream in streams:
        stream.abort()
    assert (await engine.view()).rows == []


async def test_a_sequence_can_be_asked_how_it_went(start_engine):
    engine = await start_engine({"cost_s": 0.002})
    stream = engine.submit([1, 2, 3], SamplingParams(max_tokens=6, ignore_eos=True))
    (number,) = stream.request_ids
    await anext(stream)
    so_far = engine.timings(number)
    assert so_far.finish_reason is None
    assert so_far.e2e_s >= so_far.ttft_s > 0
    async for _ in stream:
        pass
    ended = engine.timings(number)
    assert (ended.finish_reason, ended.completion_tokens) == (FinishReason.LENGTH, 6)
    tokens = engine.tokens_of(ended)
    assert [token.rows for token in tokens] == [1] * 6
    arrivals = [token.at_s - ended.submitted_s for token in tokens]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] == pytest.approx(ended.ttft_s)
    assert arrivals[-1] <= ended.e2e_s < time.monotonic() - ended.submitted_s
    assert engine.timings(number + 1) is None


async def test_who_waits_for_a_view_hears_of_the_engines_death(start_engine):
    engine = await start_engine(max_restarts=0)
    os.kill(engine.pid, signal.SIGSTOP)  # it cannot answer
    viewing = asyncio.create_task(engine.view())
    await asyncio.sleep(0.1)
    assert not viewing.done()
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(viewing, 5)
    with pytest.raises(EngineUnavailable):
        await engine.view()


async def test_who_gives_up_leaves_the_others_their_view(start_engine):
    engine = await start_engine({"cost_s": 0.2})
    stream = engine.submit([1], ENDLESS)
    await asyncio.sleep(0.05)
    impatient, patient = asyncio.create_task(engine.view()), asyncio.create_task(engine.view())
    await asyncio.sleep(0)
    impatient.cancel()
    assert len((await asyncio.wait_for(patient, 5)).rows) == 1
    stream.abort()
