"""`tradewind bench serve`: load on any OpenAI-compatible server over HTTP, streaming, at fixed concurrencies or rates.

Prompts are random token ids, output lengths are fixed (`ignore_eos`, and `skip_special_tokens` off, so that such an end
is sent as any token is): servers are compared on equal work. The latencies are those of the client: TTFT from sending
the request to the first text, TPOT the time per token after the first, ITL the gaps between arrivals. With `--beside
N`, N streams of short prompts go on beside the load, and the gaps of theirs that fall into it are told apart: what
streams notice of a long prompt, say. With `--schemas N`, answers are held to N different JSON Schemas in turn, none of
which lets an answer end before its length.
"""

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from tradewind.bench.http import Endpoint, HttpError, post, served_model
from tradewind.bench.report import Report, Row, percentile

_WARM_UP_TOKENS = 256  # at most, of a prompt
_BESIDE_TOKENS = (64, 200)  # in and out, of the streams beside a load


@dataclass(frozen=True)
class Work:
    """What each request asks for."""

    model: str
    input_tokens: int
    output_tokens: int
    vocab_size: int
    schemas: int = 0

    def body(self, rng: random.Random, number: int) -> dict[str, Any]:
        """The request with this number, of random tokens (ids below 10 are left out: they are often special)."""
        prompt = [rng.randrange(10, self.vocab_size) for _ in range(self.input_tokens)]
        structured = {"structured_outputs": {"json": schema_of(number % self.schemas)}} if self.schemas else {}
        return {
            **structured,
            "model": self.model,
            "prompt": prompt,
            "max_tokens": self.output_tokens,
            "ignore_eos": True,
            "skip_special_tokens": False,  # an end that is ignored is a token to be sent like any other
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def schema_of(number: int) -> dict[str, Any]:
    """One of many schemas: a list of records that is longer than any answer."""
    record = {
        "type": "object",
        "properties": {"name": {"type": "string"}, f"value_{number}": {"type": "integer"}, "done": {"type": "boolean"}},
        "required": ["name", f"value_{number}", "done"],
        "additionalProperties": False,
    }
    records = {"type": "array", "items": record, "minItems": 10_000}
    return {"type": "object", "properties": {"records": records}, "required": ["records"]}


@dataclass
class Trace:
    """One request as the client saw it. Times in seconds."""

    sent_s: float
    arrivals_s: list[float] = field(default_factory=list)
    output_tokens: int = 0
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        return self.arrivals_s[0] - self.sent_s

    @property
    def tpot_s(self) -> float:
        return (self.arrivals_s[-1] - self.arrivals_s[0]) / max(1, self.output_tokens - 1)


def main(arguments: list[str]) -> int:
    """Run the load that the options describe; prints a table, writes JSON and PNG. 1 if any request failed."""
    options = _parse(arguments)
    endpoint = Endpoint.parse(options.url, options.api_key)
    model = options.model or asyncio.run(served_model(endpoint))
    work = Work(model, options.input_tokens, options.output_tokens, options.vocab_size, options.schemas)
    report = Report(f"serve {options.label}".strip(), {**vars(options), "model": model})
    loads = [(None, rate) for rate in options.rate] or [(concurrency, None) for concurrency in options.concurrency]
    for concurrency, rate in loads:
        requests = options.requests or 3 * (concurrency or 32)
        bodies = [work.body(random.Random(f"{options.seed}/{concurrency}/{rate}/{i}"), i) for i in range(requests + 1)]
        beside = Beside(endpoint, work, options.beside) if options.beside else None
        report.rows.append(measure(endpoint, bodies, concurrency=concurrency, rate=rate, beside=beside))
    report.print()
    print(report.write(options.out))
    if len(report.rows) > 1 and not options.rate:
        report.plot(options.out, "load", ["output tok/s", "TTFT p50 ms", "TPOT p50 ms"])
    return 1 if any(row["failed"] for row in report.rows) else 0


def measure(
    endpoint: Endpoint,
    bodies: list[dict[str, Any]],
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    beside: "Beside | None" = None,
) -> Row:
    """One load: either so many requests in flight, or so many a second. The last of `bodies` goes ahead, uncounted."""
    asyncio.run(run_one(endpoint, {**bodies[-1], "prompt": bodies[-1]["prompt"][:_WARM_UP_TOKENS]}))
    load = _load(endpoint, bodies[:-1], concurrency, rate)
    traces, elapsed_s = asyncio.run(beside.during(load) if beside else load)
    row = _summary(concurrency or f"{rate}/s", traces, elapsed_s)
    return row if beside is None else beside.add_to(row)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tradewind bench serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server")
    parser.add_argument("--api-key")
    parser.add_argument("--model", help="its name in the API (default: the first of /v1/models)")
    parser.add_argument("--label", default="", help="name of the peer, for the files' names")
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=400, help="random ids stay below this")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="requests in flight")
    parser.add_argument("--rate", type=float, nargs="+", default=[], help="instead: Poisson arrivals per second")
    parser.add_argument("--requests", type=int, help="per load (default: three times the concurrency)")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="streams that go on beside the load")
    parser.add_argument("--schemas", type=int, default=0, help="hold answers to so many different JSON Schemas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for JSON and PNG")
    return parser.parse_args(arguments)


class Beside:
    """Streams beside a load, begun anew whenever they end; what they notice of it."""

    def __init__(self, endpoint: Endpoint, work: Work, streams: int) -> None:
        self._endpoint = endpoint
        self._work = replace(work, input_tokens=_BESIDE_TOKENS[0], output_tokens=_BESIDE_TOKENS[1], schemas=0)
        self._streams = streams
        self._gaps_s: list[float] = []
        self._failed = 0

    async def during(self, load: Coroutine[Any, Any, tuple[list[Trace], float]]) -> tuple[list[Trace], float]:
        """What `load` returns, which is awaited once all streams have begun."""
        begun, over = asyncio.Semaphore(0), asyncio.Event()
        tasks = [asyncio.create_task(self._stream(index, begun, over)) for index in range(self._streams)]
        for _ in tasks:
            await begun.acquire()
        started_s = time.perf_counter()
        result = await load
        ended_s = time.perf_counter()
        over.set()
        traces = [trace for traces in await asyncio.gather(*tasks) for trace in traces]
        self._failed = sum(trace.error is not None for trace in traces)
        self._gaps_s = [gap_s for trace in traces for gap_s in _gaps_s(trace, started_s, ended_s)]
        return result

    def add_to(self, row: Row) -> Row:
        """The row of the load that has been, with what the streams saw."""
        return {
            **row,
            "failed": int(row["failed"]) + self._failed,
            "beside: ITL p50 ms": percentile(self._gaps_s, 0.5) * 1e3,
            "beside: ITL p99 ms": percentile(self._gaps_s, 0.99) * 1e3,
            "beside: ITL max ms": max(self._gaps_s, default=float("nan")) * 1e3,
        }

    async def _stream(self, index: int, begun: asyncio.Semaphore, over: asyncio.Event) -> list[Trace]:
        rng = random.Random(f"beside/{index}")
        traces = [await run_one(self._endpoint, {**self._work.body(rng, index), "max_tokens": 1})]
        begun.release()
        while not over.is_set():
            traces.append(await run_one(self._endpoint, self._work.body(rng, index)))
        return traces


async def _load(
    endpoint: Endpoint, bodies: list[dict[str, Any]], concurrency: int | None, rate: float | None
) -> tuple[list[Trace], float]:
    """One load, and how long it took in seconds."""
    started_s = time.perf_counter()
    if concurrency is not None:
        traces = await _closed(endpoint, bodies, concurrency)
    else:
        assert rate is not None
        traces = await _open(endpoint, bodies, rate)
    return traces, time.perf_counter() - started_s


async def _closed(endpoint: Endpoint, bodies: list[dict[str, Any]], concurrency: int) -> list[Trace]:
    """A fixed number of requests in flight: each client sends its next one when the last is answered."""
    waiting = iter(bodies)

    async def client() -> list[Trace]:
        return [await run_one(endpoint, body) for body in waiting]

    groups = await asyncio.gather(*(client() for _ in range(concurrency)))
    return [trace for group in groups for trace in group]


async def _open(endpoint: Endpoint, bodies: list[dict[str, Any]], rate: float) -> list[Trace]:
    """Poisson arrivals at `rate` per second, whatever the server does."""
    rng = random.Random(rate)
    tasks = []
    for body in bodies:
        tasks.append(asyncio.create_task(run_one(endpoint, body)))
        await asyncio.sleep(rng.expovariate(rate))
    return list(await asyncio.gather(*tasks))


async def run_one(endpoint: Endpoint, body: dict[str, Any]) -> Trace:
    trace = Trace(time.perf_counter())
    try:
        async for event in _events(post(endpoint, "/v1/completions", body)):
            if event == b"[DONE]":
                break
            chunk = msgspec.json.decode(event)
            if "error" in chunk:
                trace.error = str(chunk["error"])
            elif chunk.get("choices"):
                trace.arrivals_s.append(time.perf_counter())
            if chunk.get("usage"):
                trace.output_tokens = chunk["usage"]["completion_tokens"]
        if trace.output_tokens != body["max_tokens"]:
            trace.error = trace.error or f"{trace.output_tokens} tokens came instead of {body['max_tokens']}"
    except (OSError, HttpError) as error:
        trace.error = str(error)
    return trace


async def _events(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events."""
    rest = b""
    async for data in body:
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield event[6:]


def _gaps_s(trace: Trace, started_s: float = 0.0, ended_s: float = float("inf")) -> list[float]:
    """The gaps between arrivals that have a part of this time in them."""
    pairs = zip(trace.arrivals_s, trace.arrivals_s[1:], strict=False)
    return [after_s - before_s for before_s, after_s in pairs if after_s > started_s and before_s < ended_s]


def _summary(load: int | str, traces: list[Trace], elapsed_s: float) -> Row:
    good = [trace for trace in traces if trace.error is None]
    failures = [trace.error for trace in traces if trace.error is not None]
    if failures:
        print(f"failed: {failures[0]}")
    tokens = sum(trace.output_tokens for trace in good)
    gaps_s = [gap_s for trace in good for gap_s in _gaps_s(trace)]
    row: Row = {"load": load, "requests": len(traces), "failed": len(failures), "output tok/s": tokens / elapsed_s}
    for name, values in (
        ("TTFT", [trace.ttft_s for trace in good]),
        ("TPOT", [trace.tpot_s for trace in good]),
        ("ITL", gaps_s),
    ):
        row[f"{name} p50 ms"] = percentile(values, 0.5) * 1e3
        row[f"{name} p99 ms"] = percentile(values, 0.99) * 1e3
    return row
