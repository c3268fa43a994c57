"""Hundreds of different schemas at once, hostile ones among them, beside streams that have nothing to do with them."""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from live import Program

from tradewind.bench.http import Endpoint, HttpError, post
from tradewind.bench.report import percentile

STREAMS = 4
AT_ONCE = 24
HOSTILE: list[Any] = [
    {"oneOf": [{"properties": {"k": {"const": number}}, "required": ["k"]} for number in range(2000)]},
    {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(4)]} for i in range(12)]},
    {"type": "string", "not": {"enum": [f"{number * 7919 % 10007}" for number in range(4999)]}},
    {"type": "array", "items": {"type": "array", "minItems": 10**9}, "minItems": 10**9},
    {"type": "string", "pattern": "^(a{1,1000}){1,1000}(?=b)$"},
]


def distinct(number: int) -> dict[str, Any]:
    """One of any number of schemas."""
    properties = {f"a_{number}": {"type": "integer"}, f"b_{number}": {"enum": [f"x{number}", "y"]}}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


async def answer(endpoint: Endpoint, **asked: Any) -> tuple[str, list[float]]:
    """The text of a streamed answer, and when its parts came."""
    text, arrivals_s, rest = "", [], b""
    body = {"model": "demo", "prompt": "Once", "temperature": 1.0, "stream": True, **asked}
    async for data in post(endpoint, "/v1/completions", body):
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: {"):
                text += json.loads(event[6:])["choices"][0]["text"]
                arrivals_s.append(time.monotonic())
    return text, arrivals_s


async def crowd(url: str, schemas: list[Any]) -> tuple[list[str], list[int], list[float]]:
    """(texts, statuses of refusals, gaps in seconds of the plain streams); a request for each schema, None for none."""
    endpoint, waiting = Endpoint.parse(url), iter(schemas)
    texts: list[str] = []
    refused: list[int] = []
    gaps_s: list[float] = []
    over = asyncio.Event()

    async def client() -> None:
        for schema in waiting:
            asked = {} if schema is None else {"structured_outputs": {"json": schema}}
            try:
                texts.append((await answer(endpoint, max_tokens=4, **asked))[0])
            except HttpError as error:
                refused.append(error.status)

    async def stream() -> None:
        while not over.is_set():
            _, arrivals_s = await answer(endpoint, max_tokens=40, ignore_eos=True)
            gaps_s.extend(later - earlier for earlier, later in pairwise(arrivals_s))

    streams = [asyncio.create_task(stream()) for _ in range(STREAMS)]
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    over.set()
    await asyncio.gather(*streams)
    return texts, refused, gaps_s


@pytest.fixture(scope="module")
def served() -> Iterator[Program]:
    served = Program("demo", "--device", "cpu", "--threads", "1", "--memory-bytes", "32MiB")
    yield served
    served.close()


def test_all_are_answered_and_the_other_streams_go_on(served: Program) -> None:
    schemas = [HOSTILE[number // 20 % len(HOSTILE)] if number % 20 == 0 else distinct(number) for number in range(100)]
    texts, refused, gaps_s = asyncio.run(crowd(served.url, schemas))
    assert len(texts) + len(refused) == 100
    assert set(refused) == {400}
    assert len(refused) == 3
    # How long it is depends on what else the machine does; waiting for the grammars in turn would take longer yet.
    assert percentile(gaps_s, 0.5) < 0.5
