"""`tradewind bench startup`: from starting the process to the first answered request, as a user sees it."""

import argparse
import asyncio
import time
from pathlib import Path

from tradewind.bench.http import Endpoint, post, when_ready
from tradewind.bench.report import Report, percentile
from tradewind.bench.server_process import start_server


def main(arguments: list[str]) -> int:
    """Start `tradewind serve MODEL` several times, ask for one token each time; prints a table, writes JSON."""
    options, serve_options = _parse(arguments)
    report = Report("startup", {**vars(options), "serve_options": serve_options})
    for model in options.models:
        times_s = [_measure(model, serve_options) for _ in range(options.repeat)]
        report.rows.append(
            {
                "model": Path(model).name,
                "runs": len(times_s),
                "first answer, median s": percentile(times_s, 0.5),
                "best s": min(times_s),
                "worst s": max(times_s),
            }
        )
    report.print()
    print(report.write(options.out))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(prog="tradewind bench startup", description=__doc__, allow_abbrev=False)
    parser.add_argument("models", nargs="*", default=["demo"], metavar="MODEL")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    return parser.parse_known_args(arguments)


def _measure(model: str, serve_options: list[str]) -> float:
    started_s = time.perf_counter()
    with start_server(model, serve_options) as (_, port):
        asyncio.run(first_answer(Endpoint("127.0.0.1", port)))
        return time.perf_counter() - started_s


async def first_answer(endpoint: Endpoint) -> None:
    """Return when the server has answered its first request, of one token."""
    body = {"model": await when_ready(endpoint), "prompt": [1, 2, 3], "max_tokens": 1, "temperature": 0}
    async for _ in post(endpoint, "/v1/completions", body):
        return
