"""Servers for tests, as a program or inside the test's own loop, and raw HTTP to talk to them."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tradewind import config as settings_tree
from tradewind.engine.client import AsyncEngine
from tradewind.server.app import create_app
from tradewind.server.listen import HttpServer
from tradewind.server.service import Limits
from tradewind.server.sockets import bind
from tradewind.server.spans import open_spans

START_S = 60.0
# Fails when asked to, goes on for ever when asked to.
TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'raise' %}{{ raise_exception('no such talk') }}{% endif %}"
    "{% if m.content == 'loop' %}{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
)


class Program:
    """`tradewind serve ARGUMENTS --port 0`, started and awaited."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tradewind", "serve", *arguments, "--port", "0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.started_s = time.monotonic()
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, env=environment
        )
        self.output = ""
        self.url = self._read_url()
        # Somebody must read what it says, or it waits for that once the pipe is full.
        self._reader = threading.Thread(target=self._read_on, daemon=True)
        self._reader.start()

    def _read_url(self) -> str:
        assert self._process.stdout is not None
        for raw_line in self._process.stdout:
            line = raw_line.decode()
            self.output += line
            if found := re.search(r"http://[\d.]+:\d+", line):
                return found.group()
        raise AssertionError(f"the server did not start:\n{self.output}")

    def _read_on(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for raw_line in lines:
                self.output += raw_line.decode()

    @property
    def pid(self) -> int:
        """The API process."""
        return self._process.pid

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rsplit(":", 1)[1])

    def engine_pid(self) -> int:
        """The engine process."""
        return psutil.Process(self.pid).children()[0].pid

    def signal(self, number: int) -> None:
        """Send a signal to the API process."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit status; what it printed is then in `output`."""
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def close(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(20)


def run_serve(*arguments: str) -> tuple[int, str]:
    """A start that is expected to fail: exit status and output."""
    command = [sys.executable, "-m", "tradewind", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    return done.returncode, done.stdout + done.stderr


@dataclass
class Inside:
    """A server in the test's own event loop."""

    engine: AsyncEngine
    host: str
    port: int

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.host}:{self.port}"


@contextlib.asynccontextmanager
async def serving(model: Path, *, limits: Limits | None = None, **settings: Any) -> AsyncIterator[Inside]:
    """Serve `model` on the fake device."""
    config = settings_tree.from_flat(
        {"model": str(model), "device": "fake", "served_model_name": "tiny", "log_level": "error", **settings}
    )
    engine = await AsyncEngine.start(config)
    listener = bind("127.0.0.1", 0)
    endpoint = config.server.otlp_traces_endpoint
    spans = open_spans(endpoint) if endpoint else None
    server = HttpServer(create_app(engine, config.server, limits, spans))
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield Inside(engine, *listener.getsockname()[:2])
    finally:
        server.stop()
        await task
        await engine.close()
        if spans is not None:
            await asyncio.to_thread(spans.close)


@dataclass
class RawStream:
    """One streaming request over a bare socket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    data: bytes = b""
    ended_s: float | None = None
    events: list[Any] = field(default_factory=list)

    @classmethod
    async def open(cls, port: int, path: str, body: dict[str, Any]) -> "RawStream":
        """Send the request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(path, json.dumps(body).encode()))
        await writer.drain()
        return cls(reader, writer)

    @classmethod
    async def open_on(cls, connection: socket.socket, path: str, body: dict[str, Any]) -> "RawStream":
        """Send the request on a socket that is connected already; nothing is read ahead beyond a few KiB."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=2048)
        writer.write(request_bytes(path, json.dumps(body).encode()))
        await writer.drain()
        return cls(reader, writer)

    async def read_some(self) -> bytes:
        """The next bytes."""
        more = await self.reader.read(65536)
        self.data += more
        return more

    async def read_events(self, count: int) -> None:
        """Until so many events were seen."""
        while self.data.count(b"data: ") < count:
            assert await self.read_some(), self.data[-500:]

    async def read_until(self, mark: bytes) -> bytes:
        """Until it was seen, or the connection ends."""
        while mark not in self.data and await self.read_some():
            pass
        return self.data

    async def read_all(self) -> bytes:
        """To the end of an answer in chunks."""
        await self.read_until(b"\r\n0\r\n\r\n")
        self.ended_s = time.monotonic()
        return self.data

    def json_events(self) -> list[Any]:
        """The data of each event so far, but `[DONE]`. Texts may hold what `splitlines` takes for a line's end."""
        lines = self.data.decode().split("\n")
        return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]

    def cut(self) -> None:
        """Go away without a word."""
        self.writer.transport.abort()


def request_bytes(path: str, body: bytes, *headers: str) -> bytes:
    """A POST request."""
    lines = [f"POST {path} HTTP/1.1", "host: test", "content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join([*lines, *headers]) + "\r\n\r\n").encode() + body


async def metric(url: str, name: str) -> float:
    """The value of a gauge or counter, summed over its labels."""
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"{url}/metrics")).text
    values = re.findall(rf"^tradewind:{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    assert values, f"no {name} in:\n{page}"
    return sum(map(float, values))


def is_gone(pid: int) -> bool:
    """Whether the process has ended (a zombie of somebody else's has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def idles(*pids: int) -> bool:
    """Whether the processes do nothing for two seconds on end, soon: what they still had to do may be late."""
    processes = [psutil.Process(pid) for pid in pids]
    for _ in range(4):
        before = [_work(process) for process in processes]
        await asyncio.sleep(2.0)
        work = [_work(process) for process in processes]
        used_s = sum(now[0] - then[0] for now, then in zip(work, before, strict=True))
        woken = sum(now[1] - then[1] for now, then in zip(work, before, strict=True))
        if used_s <= 0.011 and woken < 10:  # one tick of the clock that counts seconds
            return True
    return False


def _work(process: psutil.Process) -> tuple[float, int]:
    """The seconds of CPU that it has had, and how often it has gone to sleep."""
    times = process.cpu_times()
    return times.user + times.system, process.num_ctx_switches().voluntary


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    """Wait until `await condition()` is true."""
    end_s = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < end_s, "waited in vain"
        await asyncio.sleep(0.05)
