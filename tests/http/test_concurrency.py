"""Many clients at once: the same tokens for all, and nothing left behind by those who leave."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from live import Program, RawStream, metric, serving, until

from tradewind.server.service import Limits

BODY: dict[str, Any] = {"model": "tiny", "prompt": "Once upon a time", "temperature": 0, "stream": True}


async def test_64_greedy_streams_are_identical(program: Program) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        alone = await client.post(f"{program.url}/v1/completions", json={**BODY, "stream": False, "max_tokens": 32})
    streams = [await RawStream.open(program.port, "/v1/completions", {**BODY, "max_tokens": 32}) for _ in range(64)]
    answers = await asyncio.gather(*(stream.read_all() for stream in streams))
    texts = {"".join(event["choices"][0]["text"] for event in stream.json_events()) for stream in streams}
    assert texts == {alone.json()["choices"][0]["text"]}
    assert all(answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for answer in answers)


async def test_500_clients_that_leave_in_mid_stream_leave_nothing_behind(stories: Path) -> None:
    async with serving(stories, max_model_len=4096) as server:
        body = {**BODY, "max_tokens": 4000, "ignore_eos": True}

        async def come_and_go(number: int) -> None:
            stream = await RawStream.open(server.port, "/v1/completions", body)
            if number % 2:
                await stream.read_some()
            await asyncio.sleep(0.002 * (number % 50))
            stream.cut()

        await asyncio.gather(*(come_and_go(number) for number in range(500)))

        async def all_free() -> bool:
            stats = server.engine.stats
            return server.engine.open_sequences == 0 and stats.running == stats.waiting == stats.blocks_used == 0

        await until(all_free)
        assert await metric(server.url, "kv_cache_usage_perc") == 0
        assert server.engine.stats.steps > 0
        last = await RawStream.open(server.port, "/v1/completions", {**BODY, "max_tokens": 3, "ignore_eos": True})
        assert b"[DONE]" in await last.read_all()


async def test_a_client_that_leaves_before_its_whole_answer_stops_the_work(stories: Path) -> None:
    async with serving(stories, max_model_len=4096) as server:
        body = {**BODY, "stream": False, "max_tokens": 4000, "ignore_eos": True}
        waiting = await RawStream.open(server.port, "/v1/completions", body)
        await until(lambda: _is(server.engine.open_sequences == 1))
        waiting.cut()
        await until(lambda: _is(server.engine.open_sequences == server.engine.stats.running == 0))
        assert server.engine.stats.output_tokens < 4000


async def _is(value: bool) -> bool:
    return value


async def test_a_reader_that_stops_reading_is_dropped_and_memory_stays_flat(stories: Path) -> None:
    async with serving(stories, max_model_len=65536, limits=Limits(write_timeout_s=1.0)) as server:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", server.port))
        body = {**BODY, "n": 100, "max_tokens": 60000, "ignore_eos": True}
        stream = await RawStream.open_on(small, "/v1/completions", body)
        await stream.read_events(1)
        stream.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = psutil.Process().memory_info().rss
        started_s = time.monotonic()
        await until(lambda: _is(server.engine.open_sequences == 0), 20.0)
        assert time.monotonic() - started_s > 0.7  # not before its time
        assert psutil.Process().memory_info().rss - before < 64 * 2**20
        assert await metric(server.url, "slow_readers_total") == 1
        stream.cut()


async def test_a_slow_reader_that_goes_on_gets_everything(stories: Path) -> None:
    async with serving(stories, max_model_len=4096, limits=Limits(write_timeout_s=1.0)) as server:
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", server.port))
        body = {**BODY, "max_tokens": 300, "ignore_eos": True, "return_token_ids": True}
        stream = await RawStream.open_on(small, "/v1/completions", body)
        while b"\r\n0\r\n\r\n" not in stream.data and await stream.read_some():
            await asyncio.sleep(0.01)
        assert sum(len(event["choices"][0]["token_ids"]) for event in stream.json_events()) == 300
        stream.cut()
