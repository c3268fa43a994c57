"""`GET /engine/...`: the engine from inside, for the page, for `tradewind top`, and for who asks.

The engine is asked only when somebody asks here, and says how it looks between two steps. The answers have a bound in
size whatever the engine does (see `protocol/snapshot.py`).
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tradewind import __version__
from tradewind.base.errors import EngineFailed, EngineUnavailable, NotFound
from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import BlockMap, EngineView, RowView
from tradewind.server.metrics import Histogram, Metrics
from tradewind.server.service import Service
from tradewind.server.sse import JsonAnswer
from tradewind.server.timelines import REQUESTS
from tradewind.server.trace import trace_of

if TYPE_CHECKING:
    from tradewind.engine.client import AsyncEngine, RequestTimings

PATIENCE_S = 2.0
"""How long an answer waits for the step at hand; then it says what is known without the engine."""
MAX_TOKENS = 4096
"""Of how many tokens, the newest, a timeline says when they came."""
_READY_FIELDS = (
    *("device", "dtype", "max_model_len", "max_running", "step_tokens", "num_blocks", "block_tokens"),
    *("weights_bytes", "kv_bytes"),
)


async def show_state(service: Service, request: Request) -> Response:
    """The engine now: its figures, its sequences, and who holds which KV block.

    `blocks` is null and `rows` is empty while the engine cannot answer (it does not run, or a step takes long).
    Counters (`stats`, `latency`) only grow within one life of the engine; rates are differences of two answers over
    that of their `time_s`.
    """
    engine = service.engine
    caller = trace_of(request).caller.name
    view = await _view(service)
    answer: dict[str, Any] = {
        "status": engine.state,
        "message": engine.failure,
        "version": __version__,
        "model": service.names[0],
        "time_s": round(time.monotonic(), 6),
        "restarts": engine.restarts,
        "engine": None,
        "stats": _stats(engine.stats if view is None else view.stats),
        "rows": [] if view is None else [_row(service, row, caller) for row in view.rows],
        "blocks": None if view is None else _blocks(view.blocks),
        "latency": _latency(service.metrics),
    }
    if engine.state in ("ready", "draining", "restarting"):
        answer["engine"] = {name: getattr(engine.ready, name) for name in _READY_FIELDS}
    return JsonAnswer(answer, headers={"cache-control": "no-store"})


async def _view(service: Service) -> EngineView | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await service.engine.view()
    except (EngineUnavailable, EngineFailed, TimeoutError):
        return None


def _stats(stats: EngineStats) -> dict[str, Any]:
    return {name: round(value, 6) for name, value in msgspec.structs.asdict(stats).items()}


def _row(service: Service, row: RowView, caller: str) -> dict[str, Any]:
    """`request`: the X-Request-Id, if the request was the caller's own."""
    return {"request": service.timelines.name_of(row.request_id, caller), **msgspec.structs.asdict(row)}


def _blocks(blocks: BlockMap) -> dict[str, Any]:
    return {"cell_blocks": blocks.cell_blocks, "runs": list(zip(blocks.owners, blocks.lengths, strict=True))}


def _latency(metrics: Metrics) -> dict[str, Any]:
    """Histograms over all requests so far: upper bounds in seconds, and how many values each took."""
    return {
        "time_to_first_token": _histogram(metrics.time_to_first_token),
        "inter_token": _histogram(metrics.inter_token),
        "queue": _histogram(metrics.queue_time),
        "e2e": _histogram(metrics.e2e),
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """The last of `counts` has no bound."""
    return {"bounds": histogram.bounds, "counts": histogram.counts, "sum": round(histogram.total, 6)}


async def show_timeline(service: Service, request: Request) -> Response:
    """How a request of the caller went or is going, by its `X-Request-Id`.

    All times are in seconds from its arrival. Each sequence has the moments when it was `submitted`, `admitted` to the
    batch, had its `first_token` and `finished` (null: not yet, or never), and `steps`: `[time, sequences in that step]`
    for each of its newest tokens. 404 once it is forgotten.
    """
    request_id = request.path_params["request_id"]
    entry = service.timelines.of(request_id, trace_of(request).caller.name)
    if entry is None:
        raise NotFound(f"no request {request_id[:128]!r} is remembered; the newest {REQUESTS} are")
    sequences = []
    for sequence in entry.sequences:
        timings = service.engine.timings(sequence)
        if timings is not None:
            sequences.append(_sequence(service.engine, timings, entry.received_s, MAX_TOKENS // len(entry.sequences)))
    return JsonAnswer({"request_id": entry.request_id, "sequences": sequences})


def _sequence(engine: "AsyncEngine", timings: "RequestTimings", start_s: float, most: int) -> dict[str, Any]:
    submitted_s = timings.submitted_s - start_s

    def moment(after_s: float | None) -> float | None:
        return None if after_s is None else _rounded(submitted_s + after_s)

    tokens = engine.tokens_of(timings)[-most:] if most else []
    return {
        "index": timings.index,
        "finish_reason": timings.finish_reason,
        "prompt_tokens": timings.prompt_tokens,
        "cached_tokens": timings.cached_tokens,
        "completion_tokens": timings.completion_tokens,
        "submitted": _rounded(submitted_s),
        "admitted": moment(timings.queue_s),
        "first_token": moment(timings.ttft_s),
        "finished": None if timings.finish_reason is None else moment(timings.e2e_s),
        "steps": [[_rounded(token.at_s - start_s), token.rows] for token in tokens],
    }


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
