"""`tradewind bench host`: what the host spends, from 1 to 1,024 running rows, with a device that computes nothing.

Engine loop: time per step to plan, apply and serialise, in this process. API process: processor time per streamed
token, measured twice. `API us/token` is all that the operating system counts for a real server with streaming clients;
each token is a write to a TCP socket there. `no sockets us` is the same server and engine process, with connections
that drop what is written: receiving the step, detokenising, looking for stop strings, SSE, HTTP framing.
"""

import argparse
import asyncio
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tradewind.base.clock import SystemClock
from tradewind.bench.http import Endpoint, get, post, served_model
from tradewind.bench.report import Report, Row, percentile
from tradewind.bench.server_process import start_server
from tradewind.config import CacheConfig, SchedulerConfig, from_flat
from tradewind.engine.client import AsyncEngine, RequestTimings
from tradewind.engine.core import Engine, to_message
from tradewind.protocol.plan import RunnerInfo, StepPlan
from tradewind.protocol.request import EngineRequest, RowSampling
from tradewind.runner.fake import FakePending, FakeRunner
from tradewind.scheduler.scheduler import Scheduler
from tradewind.server.app import create_app
from tradewind.server.listen import Connection, HttpServer

_WARM_STEPS, _STEPS = 20, 400
_PROMPT_TOKENS = 20
_BODY = {
    "prompt": "Once upon a time",
    "max_tokens": 1900,
    "ignore_eos": True,
    "stop": ["\n\nUser:"],
    "stream": True,
}


def main(arguments: list[str]) -> int:
    """Measure both for every number of rows; prints a table, writes JSON and PNG."""
    parser = argparse.ArgumentParser(prog="tradewind bench host", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128, 512, 1024], help="streams at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="of streaming per number of rows")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for JSON and PNG")
    options = parser.parse_args(arguments)
    report = Report("host", vars(options))
    for rows in options.rows:
        api = measure_api(rows, options.seconds)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            api |= runner.run(measure_without_sockets(rows, options.seconds))
        report.rows.append({"rows": rows, **measure_loop(rows), **api})
    report.print()
    print(report.write(options.out))
    if len(report.rows) > 1:
        report.plot(options.out, "rows", ["loop us/step", "API us/token", "no sockets us"])
    return 0


# --- the engine loop -------------------------------------------------------------------------------------------------


class _TimedRunner(FakeRunner):
    """A runner that knows how long it took itself, so that this can be left out."""

    spent_s = 0.0

    def run(self, plan: StepPlan) -> FakePending:
        begun_s = time.perf_counter()
        pending = super().run(plan)
        self.spent_s += time.perf_counter() - begun_s
        return pending


def measure_loop(rows: int) -> Row:
    """Microseconds of a steady decode step with so many rows: median and 99th percentile."""
    info = RunnerInfo(
        num_blocks=40 * rows + 10,
        block_tokens=16,
        max_model_len=_PROMPT_TOKENS + _WARM_STEPS + _STEPS + 100,
        max_running=rows,
        step_tokens=8192,
        vocab_size=32000,
        asynchronous=True,
        device="fake",
        dtype="none",
        weights_bytes=0,
        kv_bytes=0,
    )
    runner, clock = _TimedRunner(info, verify=False), SystemClock()
    engine = Engine(Scheduler(info, SchedulerConfig(max_waiting=rows), CacheConfig(), clock), runner, clock)
    for row in range(rows):
        engine.add(_request(row))
    encoder = msgspec.msgpack.Encoder()
    times_us = []
    for _ in range(_WARM_STEPS + _STEPS):
        spent_before_s, begun_s = runner.spent_s, time.perf_counter()
        for updates in engine.step():
            encoder.encode(to_message(updates))
        times_us.append((time.perf_counter() - begun_s - (runner.spent_s - spent_before_s)) * 1e6)
    steady_us = times_us[_WARM_STEPS:]
    return {"loop us/step": percentile(steady_us, 0.5), "loop p99 us": percentile(steady_us, 0.99)}


def _request(row: int) -> EngineRequest:
    return EngineRequest(
        request_id=row,
        prompt_tokens=[row % 1000 + 1] * _PROMPT_TOKENS,
        sampling=RowSampling(seed=row),
        max_tokens=_WARM_STEPS + _STEPS + 50,
        stop_token_ids=[31999],
    )


# --- the API process -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Snapshot:
    """What the server process has used, in ticks of the operating system, and how many tokens it has streamed."""

    ticks: int
    tokens: int


def measure_api(rows: int, seconds: float) -> Row:
    """Processor time per token of a server that streams to `rows` clients for `seconds`."""
    options = ["--device", "fake", "--max-running", str(rows), "--log-level", "warning"]
    with start_server("demo", options) as (process, port):
        first, last = asyncio.run(_stream(process, Endpoint("127.0.0.1", port), rows, seconds))
    tokens = max(1, last.tokens - first.tokens)
    spent_us = (last.ticks - first.ticks) * 1e6 / os.sysconf("SC_CLK_TCK")
    return {"tokens/s": tokens / seconds, "API us/token": spent_us / tokens}


async def _stream(
    process: "subprocess.Popen[str]", endpoint: Endpoint, rows: int, seconds: float
) -> tuple[_Snapshot, _Snapshot]:
    model = await served_model(endpoint)
    started = asyncio.Semaphore(0)
    clients = [asyncio.create_task(_client(endpoint, model, started)) for _ in range(rows)]
    for _ in range(rows):
        await started.acquire()
    first = await _snapshot(process.pid, endpoint)
    await asyncio.sleep(seconds)
    last = await _snapshot(process.pid, endpoint)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return first, last


async def _client(endpoint: Endpoint, model: str, started: asyncio.Semaphore) -> None:
    """Streams one answer after another."""
    first = True
    while True:
        async for _ in post(endpoint, "/v1/completions", {**_BODY, "model": model}):
            if first:
                started.release()
                first = False


async def _snapshot(pid: int, endpoint: Endpoint) -> _Snapshot:
    """Of /proc/PID/stat (proc(5): utime and stime are fields 14 and 15), and the server's own count of tokens."""
    _, page = await get(endpoint, "/metrics")
    line = next(line for line in page.decode().splitlines() if line.startswith("tradewind:generation_tokens_total"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _Snapshot(int(fields[11]) + int(fields[12]), int(float(line.split()[-1])))


# --- the API without its sockets -------------------------------------------------------------------------------------


class _Drop(asyncio.Transport):
    """A connection whose client takes everything at once."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


class _Count:
    """Counts the tokens that the engine says."""

    tokens = 0

    def on_step(self, ttft_s: list[float], inter_token_s: list[float]) -> None:
        self.tokens += len(ttft_s) + len(inter_token_s)

    def on_finished(self, timings: RequestTimings) -> None:
        pass


async def measure_without_sockets(rows: int, seconds: float) -> Row:
    """Processor time of this process per token that `rows` streams of a server in it send."""
    config = from_flat({"model": "demo", "device": "fake", "max_running": rows, "served_model_name": "demo"})
    engine = await AsyncEngine.start(config)
    logging.disable(logging.INFO)
    try:
        server = HttpServer(create_app(engine, config.server))
        server.config.load()
        for _ in range(rows):
            connection = Connection(config=server.config, server_state=server.server_state, app_state={})
            connection.connection_made(_Drop())
            connection.data_received(_raw_request())
        await asyncio.sleep(1 + rows / 1000)  # all are decoding
        engine.subscribe(count := _Count())
        spent_s = time.process_time()
        await asyncio.sleep(seconds)
        spent_s = time.process_time() - spent_s
    finally:
        await engine.close()
        logging.disable(logging.NOTSET)
    return {"no sockets us": spent_s * 1e6 / max(1, count.tokens)}


def _raw_request() -> bytes:
    body = msgspec.json.encode({**_BODY, "model": "demo"})
    head = "POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
