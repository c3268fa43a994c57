"""`tradewind bench soak`: thousands of requests of every kind, and what they leave behind: memory, blocks, errors.

Starts `tradewind serve MODEL`, keeps `--concurrency` requests in flight and looks at the resident memory of both
processes ten times on the way. Among the requests are streams, answers in one piece, chats, several choices, logprobs,
stop strings, tenants, requests that are wrong, and clients that leave in the middle.
"""

import argparse
import asyncio
import os
import random
import re
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tradewind.bench.http import Endpoint, HttpError, get, post, when_ready
from tradewind.bench.report import Report, Row
from tradewind.bench.server_process import start_server

_LOOKS = 10
_TEXT = "once upon a time in the big old city there lived one small fox who had red hats and no good friend"
_LEAVES = "leaves"  # in a body: how many pieces this client reads before it goes away


def main(arguments: list[str]) -> int:
    """Prints a table, writes JSON. 1 if a request that was right failed, or if anything is still held at the end."""
    options, serve_options = _parse(arguments)
    report = Report("soak", {**vars(options), "serve_options": serve_options})
    with start_server(options.model, ["--log-level", "error", *serve_options]) as (process, port):
        soak = _Soak(Endpoint("127.0.0.1", port), process.pid, options.requests, options.seed)
        report.rows.extend(asyncio.run(soak.run(options.concurrency)))
    report.print()
    print("outcomes: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(soak.outcomes.items())))
    print(f"at the end: {soak.left}")
    print(report.write(options.out))
    return 1 if soak.faults or any(soak.left.values()) else 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="tradewind bench soak", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    return parser.parse_known_args(arguments)


class _Soak:
    """One run. `outcomes`: what became of the requests; `left`: what is still held afterwards."""

    def __init__(self, endpoint: Endpoint, pid: int, requests: int, seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.faults = 0
        self.left: dict[str, float] = {}
        self._endpoint = endpoint
        self._pid = pid
        self._requests = requests
        self._rng = random.Random(seed)
        self._sent = 0

    async def run(self, concurrency: int) -> list[Row]:
        """Send everything; a row for each tenth of the requests."""
        model = await when_ready(self._endpoint)
        started_s = time.perf_counter()
        rows = [self._row(started_s)]
        clients = [asyncio.create_task(self._client(model)) for _ in range(concurrency)]
        for tenth in range(1, _LOOKS + 1):
            while sum(self.outcomes.values()) * _LOOKS < self._requests * tenth:
                await asyncio.sleep(0.05)
            rows.append(self._row(started_s))
        await asyncio.gather(*clients)
        self.left = await self._held()
        return rows

    def _row(self, started_s: float) -> Row:
        server, engine = (_resident_mib(pid) for pid in (self._pid, _child(self._pid)))
        done = sum(self.outcomes.values())
        return {"requests": done, "s": time.perf_counter() - started_s, "server MiB": server, "engine MiB": engine}

    async def _client(self, model: str) -> None:
        while self._sent < self._requests:
            self._sent += 1
            path, body = _draw(self._rng)
            try:
                outcome = await self._ask(path, {**body, "model": model})
            except HttpError as error:
                outcome = f"refused with {error.status}"
                self.faults += error.status != 400
            except OSError as error:
                outcome = f"lost ({error})"
                self.faults += 1
            self.outcomes[outcome] += 1

    async def _ask(self, path: str, body: dict[str, Any]) -> str:
        leaves = body.pop(_LEAVES, None)
        pieces = 0
        async with aclosing(post(self._endpoint, path, body)) as answer:
            async for data in answer:
                pieces += 1
                if b'"error"' in data:
                    self.faults += 1
                    return "failed"
                if pieces == leaves:
                    return "left in the middle"
        return "answered"

    async def _held(self) -> dict[str, float]:
        """What the server still holds once it has had a moment."""
        held: dict[str, float] = {}
        for _ in range(100):
            page = (await get(self._endpoint, "/metrics"))[1].decode()
            held = {name: _gauge(page, name) for name in ("num_requests_running", "num_requests_waiting")}
            held["kv_cache_usage_perc"] = _gauge(page, "kv_cache_usage_perc")
            if not any(held.values()):
                break
            await asyncio.sleep(0.1)
        return held


def _draw(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body, of some kind."""
    text = " ".join(rng.choices(_TEXT.split(), k=rng.randrange(1, 200)))
    body: dict[str, Any] = {"max_tokens": rng.randrange(1, 60), "seed": rng.randrange(10), "prompt": text}
    kind = rng.randrange(10)
    if kind < 3:
        body["stream"] = True
    elif kind == 3:
        body |= {"stream": True, "max_tokens": 500, "ignore_eos": True, _LEAVES: rng.randrange(1, 5)}
    elif kind == 4:
        body |= {"n": 3, "logprobs": 3, "stop": [" the"]}
    elif kind == 5:
        body |= {"frequency_penalty": 0.5, "logit_bias": {"7": 1.0}, "cache_salt": str(rng.randrange(4))}
    elif kind == 6:
        body["temperature"] = -1
    elif kind < 9:
        del body["prompt"]
        body |= {"messages": [{"role": "user", "content": text}], "stream": kind == 7}
        return "/v1/chat/completions", body
    return "/v1/completions", body


def _gauge(page: str, name: str) -> float:
    found = re.search(rf"^tradewind:{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    assert found, name
    return float(found.group(1))


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _resident_mib(pid: int) -> float:
    """Of proc(5): the second number of statm is the resident set, in pages."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
