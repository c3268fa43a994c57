"""A server's life: refusing to start, losing its engine, draining, doing nothing."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from live import Program, RawStream, idles, is_gone, metric, run_serve, until

from tradewind import config as settings_tree
from tradewind.engine.client import AsyncEngine
from tradewind.server.app import create_app
from tradewind.server.listen import HttpServer
from tradewind.server.sockets import bind

BODY: dict[str, Any] = {"model": "tiny", "prompt": "Once", "stream": True, "ignore_eos": True}
ENDLESS = {**BODY, "max_tokens": 8000}  # about a minute
AT_ONCE_S = 5.0  # on a machine that does other things as well; what is not at once takes a minute and more


@pytest.fixture
def fake(stories: Path) -> Iterator[Program]:
    served = Program(str(stories), "--device", "fake", "--served-model-name", "tiny", "--max-model-len", "8192")
    yield served
    served.close()


async def _status(url: str, path: str = "/health") -> int:
    async with httpx.AsyncClient() as client:
        return (await client.get(url + path)).status_code


async def test_losing_the_engine_under_load(fake: Program) -> None:
    rss_before = psutil.Process(fake.pid).memory_info().rss
    streams = [await RawStream.open(fake.port, "/v1/completions", ENDLESS) for _ in range(32)]
    whole = await RawStream.open(fake.port, "/v1/completions", {**ENDLESS, "stream": False})
    for stream in streams:
        await stream.read_events(3)
    first_pid = fake.engine_pid()
    os.kill(first_pid, signal.SIGKILL)
    killed_s = time.monotonic()
    await asyncio.gather(*(stream.read_all() for stream in streams))
    for stream in streams:
        assert stream.ended_s is not None
        assert stream.ended_s - killed_s < AT_ONCE_S
        assert stream.json_events()[-1]["error"]["code"] == "engine_failed"
        assert b"[DONE]" not in stream.data
    answer = await asyncio.wait_for(whole.read_until(b"engine_failed"), AT_ONCE_S)  # head and body may come apart
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"engine_failed" in answer

    async def back() -> bool:
        return await _status(fake.url) == 200

    await until(back)
    assert fake.engine_pid() != first_pid
    assert await metric(fake.url, "engine_restarts_total") == 1
    again = await RawStream.open(fake.port, "/v1/completions", {**BODY, "max_tokens": 4})
    assert b"[DONE]" in await again.read_all()

    async def free() -> bool:
        return await metric(fake.url, "kv_cache_usage_perc") == 0 == await metric(fake.url, "num_requests_running")

    await until(free)
    assert psutil.Process(fake.pid).memory_info().rss - rss_before < 32 * 2**20


async def _unhealthy(client: httpx.AsyncClient, program: Program) -> httpx.Response:
    """What /health says while the engine is away. It may be back before it is asked; the next time it pauses before."""
    for _ in range(3):
        os.kill(program.engine_pid(), signal.SIGKILL)
        end_s = time.monotonic() + 2.0
        while time.monotonic() < end_s:
            if (answer := await client.get("/health")).status_code == 503:
                return answer
            await asyncio.sleep(0.002)
    raise AssertionError("it always says that all is well")


async def test_while_the_engine_is_away_health_says_so(fake: Program) -> None:
    async with httpx.AsyncClient(base_url=fake.url) as client:
        await client.get("/health")  # to have a client and its connection takes as long as a new engine does
        answer = await _unhealthy(client, fake)
        assert answer.json()["status"] == "restarting"
        assert "engine" in answer.json()["message"]
        refused = await client.post("/v1/completions", json={"prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) >= 1


async def _drains(url: str) -> None:
    """Wait until it does."""

    async def draining() -> bool:
        return await _status(url, "/ready") == 503

    await until(draining)


async def test_sigterm_lets_streams_finish_and_refuses_new_work(fake: Program) -> None:
    endless = await RawStream.open(fake.port, "/v1/completions", ENDLESS)  # the server waits for it until it is cut
    streams = [await RawStream.open(fake.port, "/v1/completions", {**BODY, "max_tokens": 150}) for _ in range(8)]
    for stream in (endless, *streams):
        await stream.read_events(2)
    fake.signal(signal.SIGTERM)
    await _drains(fake.url)
    async with httpx.AsyncClient() as client:
        refused = await client.post(f"{fake.url}/v1/completions", json={"prompt": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert "retry-after" in refused.headers
    answers = await asyncio.gather(*(stream.read_all() for stream in streams))
    assert all(b"data: [DONE]" in answer for answer in answers)
    endless.cut()
    assert await asyncio.to_thread(fake.wait) == 0
    assert "drained" in fake.output


async def test_a_second_signal_ends_it_at_once(fake: Program) -> None:
    stream = await RawStream.open(fake.port, "/v1/completions", ENDLESS)
    await stream.read_events(2)
    engine_pid = fake.engine_pid()
    fake.signal(signal.SIGTERM)
    await _drains(fake.url)
    fake.signal(signal.SIGTERM)
    assert await asyncio.to_thread(fake.wait, AT_ONCE_S) == 128 + signal.SIGTERM

    async def gone() -> bool:
        return is_gone(engine_pid)

    await until(gone, AT_ONCE_S)  # it was killed, but has still to get its turn to die


async def test_an_idle_server_uses_no_cpu(fake: Program) -> None:
    stream = await RawStream.open(fake.port, "/v1/completions", {**BODY, "max_tokens": 4})
    await stream.read_all()
    await asyncio.sleep(1.5)  # the cache is looked over once, a second after the last request
    assert await idles(fake.pid, fake.engine_pid())
    stream.cut()


async def test_before_the_engine_is_ready_only_the_servers_own_routes_answer(stories: Path) -> None:
    config = settings_tree.from_flat({"model": str(stories), "device": "fake", "served_model_name": "tiny"})
    engine = AsyncEngine(config)
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = HttpServer(create_app(engine, config.server))
    serving = asyncio.create_task(server.serve([listener]))
    try:
        for path, status in (("/health", 503), ("/ready", 503), ("/v1/models", 503), ("/metrics", 200), ("/", 200)):
            assert await _status(url, path) == status
        await engine.boot()
        assert await _status(url) == 200
    finally:
        server.stop()
        await serving
        await engine.close()


def test_a_signal_while_loading_ends_it_without_a_trace(stories: Path) -> None:
    command = [sys.executable, "-m", "tradewind", "serve", str(stories), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
    assert process.stdout is not None
    output = process.stdout.readline()  # the first word of the loading
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Traceback" not in output + rest
    assert not any(child.is_running() for child in children)


def test_a_port_in_use_is_said_at_once(stories: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = run_serve(str(stories), "--port", str(port))
    assert status == 1
    assert f"port {port} on 127.0.0.1 is taken" in output
    assert "--port" in output.replace(str(port), "")
    assert "Traceback" not in output


def test_what_cannot_start_says_why(tmp_path: Path, stories: Path) -> None:
    cases = [
        ((str(tmp_path / "nowhere"),), "nowhere"),
        ((str(tmp_path),), "config.json"),
        ((str(stories), "--host", "not.a.host.invalid"), "not.a.host.invalid"),
    ]
    for arguments, word in cases:
        status, output = run_serve(*arguments, "--port", "0", "--device", "fake")
        assert status == 1, output
        assert word in output
        assert "Traceback" not in output


def test_too_little_memory_says_how_much_is_needed(stories: Path) -> None:
    status, output = run_serve(str(stories), "--port", "0", "--device", "cpu", "--memory-bytes", "4KiB")
    assert status == 1
    assert "KiB" in output
    assert "--max-model-len" in output or "--memory-bytes" in output
    assert "Traceback" not in output


def test_the_greeting_can_be_pasted(fake: Program) -> None:
    fake.signal(signal.SIGTERM)
    fake.wait()
    assert "curl " in fake.output
    line = next(line for line in fake.output.splitlines() if line.strip().startswith("curl "))
    assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
