"""`tradewind bench schemas`: what streams without a grammar notice of thousands of schemas beside them.

Starts `tradewind serve MODEL` and keeps `--streams` plain streams going. Beside them, `--concurrency` clients send
`--requests` requests of equal length: none at all, plain ones, ones that each have a schema of their own, and (a tenth
as many) ones that each have a regex whose masks are costly. The inter-token latencies are those of the plain streams.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tradewind.bench.http import Endpoint, when_ready
from tradewind.bench.report import Report, Row, percentile
from tradewind.bench.serve import Trace, Work, run_one, schema_of
from tradewind.bench.server_process import start_server

_STREAM_TOKENS = 200  # after which a stream is begun anew
_ALONE_S = 5.0
_COSTLY_SHARE = 10  # one in so many

Body = dict[str, Any]


def main(arguments: list[str]) -> int:
    """Prints a table, writes JSON. 1 if any request failed."""
    options, serve_options = _parse(arguments)
    report = Report("schemas", {**vars(options), "serve_options": serve_options})
    with start_server(options.model, ["--log-level", "error", *serve_options]) as (_, port):
        report.rows.extend(asyncio.run(_Bench(Endpoint("127.0.0.1", port), options).run()))
    report.print()
    print(report.write(options.out))
    return 1 if any(row["failed"] for row in report.rows) else 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="tradewind bench schemas", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight beside the streams")
    parser.add_argument("--streams", type=int, default=8, help="plain streams that are measured")
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--vocab-size", type=int, default=400, help="random ids stay below this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    return parser.parse_known_args(arguments)


def _costly_regex(number: int) -> str:
    """One of many whose automaton grows with every token: where a vowel stood some letters ago matters."""
    return f"([a-zA-Z ,.]*[aeiou ][a-zA-Z ,.]{{11}}){{30,60}}x{number}"


class _Bench:
    """One run against a server that is starting."""

    def __init__(self, endpoint: Endpoint, options: argparse.Namespace) -> None:
        self._endpoint = endpoint
        self._options = options

    async def run(self) -> list[Row]:
        """A row for each load."""
        options = self._options
        model = await when_ready(self._endpoint)
        self._crowd = Work(model, options.input_tokens, options.output_tokens, options.vocab_size)
        self._stream = Work(model, options.input_tokens, _STREAM_TOKENS, options.vocab_size)
        await run_one(self._endpoint, self._body(0, {"json": {"type": "object"}}))  # loads the vocabulary
        return [
            await self._load("none", 0, None),
            await self._load("plain", options.requests, None),
            await self._load("a schema each", options.requests, lambda number: {"json": schema_of(number)}),
            await self._load(
                "a costly regex each",
                options.requests // _COSTLY_SHARE,
                lambda number: {"regex": _costly_regex(number)},
            ),
        ]

    def _body(self, number: int, asked: Body | None) -> Body:
        body = self._crowd.body(random.Random(f"{self._options.seed}/{number}"), number)
        return body if asked is None else {**body, "structured_outputs": asked}

    async def _load(self, name: str, requests: int, asked: Callable[[int], Body] | None) -> Row:
        bodies = (self._body(number, asked and asked(number)) for number in range(requests))
        over = asyncio.Event()
        streams = [asyncio.create_task(self._keep_streaming(index, over)) for index in range(self._options.streams)]
        started_s = time.perf_counter()
        groups = await asyncio.gather(*(self._client(bodies) for _ in range(self._options.concurrency)))
        elapsed_s = time.perf_counter() - started_s
        await asyncio.sleep(0 if requests else _ALONE_S)
        over.set()
        plain = [trace for group in await asyncio.gather(*streams) for trace in group]
        return _row(name, [trace for group in groups for trace in group], plain, elapsed_s)

    async def _client(self, bodies: Iterator[Body]) -> list[Trace]:
        return [await run_one(self._endpoint, body) for body in bodies]

    async def _keep_streaming(self, index: int, over: asyncio.Event) -> list[Trace]:
        rng, traces = random.Random(index), []
        while not over.is_set():
            traces.append(await run_one(self._endpoint, self._stream.body(rng, index)))
        return traces


def _row(name: str, crowd: list[Trace], plain: list[Trace], elapsed_s: float) -> Row:
    gaps_s = [b - a for trace in plain for a, b in zip(trace.arrivals_s, trace.arrivals_s[1:], strict=False)]
    failed = [trace.error for trace in (*crowd, *plain) if trace.error is not None]
    if failed:
        print(f"failed: {failed[0]}")
    answered = [trace for trace in crowd if trace.error is None]
    return {
        "beside": name,
        "requests": len(crowd),
        "failed": len(failed),
        "requests/s": len(crowd) / elapsed_s if crowd else 0.0,
        "TTFT p50 ms": percentile([trace.ttft_s for trace in answered], 0.5) * 1e3,
        "TTFT p99 ms": percentile([trace.ttft_s for trace in answered], 0.99) * 1e3,
        "streams' ITL p50 ms": percentile(gaps_s, 0.5) * 1e3,
        "p99 ms": percentile(gaps_s, 0.99) * 1e3,
        "p99.9 ms": percentile(gaps_s, 0.999) * 1e3,
        "max ms": max(gaps_s, default=float("nan")) * 1e3,
    }
