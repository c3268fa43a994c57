"""`tradewind bench host`: what the host spends, from 1 to 1,024 running rows, with a device that computes nothing.

Engine loop: time per step to plan, apply and serialise, in this process. API process: processor time per streamed token
of a real server under real streaming clients, as the operating system counts it. Each token is a write to a TCP socket,
whose price is the machine's: `socket us` is what a bare one costs, `own us` what is left for the server itself
(receiving, detokenising, stop strings, SSE).
"""

import argparse
import asyncio
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tradewind.base.clock import SystemClock
from tradewind.bench.http import Endpoint, get, post, served_model
from tradewind.bench.report import Report, Row, percentile
from tradewind.bench.server_process import start_server
from tradewind.config import CacheConfig, SchedulerConfig
from tradewind.engine.core import Engine, to_message
from tradewind.protocol.plan import RunnerInfo, StepPlan
from tradewind.protocol.request import EngineRequest, RowSampling
from tradewind.runner.fake import FakePending, FakeRunner
from tradewind.scheduler.scheduler import Scheduler

_WARM_STEPS, _STEPS = 20, 400
_PROMPT_TOKENS = 20


def main(arguments: list[str]) -> int:
    """Measure both for every number of rows; prints a table, writes JSON and PNG."""
    parser = argparse.ArgumentParser(prog="tradewind bench host", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128, 512, 1024], help="streams at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="of streaming per number of rows")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for JSON and PNG")
    options = parser.parse_args(arguments)
    report = Report("host", vars(options))
    for rows in options.rows:
        socket_us = measure_socket_write()
        api = measure_api(rows, options.seconds)
        api |= {"socket us": socket_us, "own us": api["API us/token"] - socket_us}
        report.rows.append({"rows": rows, **measure_loop(rows), **api})
    report.print()
    print(report.write(options.out))
    if len(report.rows) > 1:
        report.plot(options.out, "rows", ["loop us/step", "API us/token"])
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


def measure_socket_write(rounds: int = 100) -> float:
    """Microseconds of processor time that writing an event of 200 bytes to a TCP socket costs this process."""
    event, per_round, spent_s = bytes(200), 50, 0.0
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as reader, server.accept()[0] as writer:
        writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(rounds):
            begun_s = time.process_time()
            for _ in range(per_round):
                writer.send(event)
            spent_s += time.process_time() - begun_s
            reader.recv(len(event) * per_round, socket.MSG_WAITALL)
    return spent_s / (rounds * per_round) * 1e6


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
    body = {
        "model": model,
        "prompt": "Once upon a time",
        "max_tokens": 1900,
        "ignore_eos": True,
        "stop": ["\n\nUser:"],
        "stream": True,
    }
    first = True
    while True:
        async for _ in post(endpoint, "/v1/completions", body):
            if first:
                started.release()
                first = False


async def _snapshot(pid: int, endpoint: Endpoint) -> _Snapshot:
    """Of /proc/PID/stat (proc(5): utime and stime are fields 14 and 15), and the server's own count of tokens."""
    _, page = await get(endpoint, "/metrics")
    line = next(line for line in page.decode().splitlines() if line.startswith("tradewind:generation_tokens_total"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return _Snapshot(int(fields[11]) + int(fields[12]), int(float(line.split()[-1])))
