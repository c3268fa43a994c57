"""`/v1/responses` and what was stored there."""

import re
import time
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tradewind.base.errors import RequestError
from tradewind.server.body import LARGE_LIST, aside
from tradewind.server.generation import consume
from tradewind.server.openai.entry import enter
from tradewind.server.openai.logprobs import TokenNames
from tradewind.server.responses.background import Background, Place
from tradewind.server.responses.event_log import EventLog
from tradewind.server.responses.generating import begin, count_tokens
from tradewind.server.responses.items import Item, item_id, read_items
from tradewind.server.responses.requests import ResponsesRequest
from tradewind.server.responses.shape import ResponseHead, ResponseShape
from tradewind.server.responses.store import ResponseStore, Stored, decoded
from tradewind.server.service import Service
from tradewind.server.sse import EventStream, FollowedStream, JsonAnswer
from tradewind.server.trace import trace_of

_PAGE_ITEMS = 20
_MOST_PAGE_ITEMS = 100


async def create_response(service: Service, request: Request) -> Response:
    """Answer a conversation of items: text, reasoning and calls of functions. OpenAI's `POST /v1/responses`."""
    asked, trace, model = await enter(service, request, ResponsesRequest)
    store, owner = service.responses, trace.caller.name
    items, conversation = await _conversation(asked, store, owner)
    generation, answering = await begin(service, request, asked, items, trace)
    response_id = item_id("resp")
    made = None
    if asked.background:
        log = EventLog(service.limits.event_log_bytes) if asked.stream else None
        made = Background(Place(response_id, store, owner, conversation, log))
    keep = made.keep if made else partial(_keep, store, owner, conversation) if asked.store is not False else _forget
    head = ResponseHead(response_id, model, int(time.time()), asked, answering, keep)
    shape = ResponseShape(head, generation, TokenNames(service.engine.tokenizer))
    if made is not None:
        trace.task = made.start(generation, shape)
        return JsonAnswer(made.response()) if made.log is None else _followed(service, made.log, -1)
    if asked.stream:
        return EventStream(generation, shape, service.metrics, service.limits.write_timeout_s)
    await consume(generation, request.receive, lambda _first, deltas: shape.take(deltas))
    return JsonAnswer(shape.whole())


async def _conversation(
    asked: ResponsesRequest, store: ResponseStore, owner: str
) -> tuple[list[Item], tuple[bytes, ...]]:
    """All items, those of earlier responses first, and the same as they are stored. Raises RequestError or NotFound."""
    if asked.refused is not None:
        raise RequestError(asked.refused[1], field=asked.refused[0])
    before: tuple[bytes, ...] = ()
    if asked.previous_response_id is not None:
        before = store.get(asked.previous_response_id, owner, "previous_response_id").conversation

    def read() -> tuple[list[Item], tuple[bytes, ...]]:
        items = read_items(asked.input or [], lambda name: store.find_item(name, owner))
        return decoded(before) + items, (*before, msgspec.json.encode(items))

    is_large = bool(before) or (isinstance(asked.input, list) and len(asked.input) >= LARGE_LIST)
    return await aside(is_large, read)


async def count_input_tokens(service: Service, request: Request) -> Response:
    """How many tokens a response's input is in the model's template."""
    asked, trace, _ = await enter(service, request, ResponsesRequest)
    items, _ = await _conversation(asked, service.responses, trace.caller.name)
    count = await count_tokens(service, asked, items)
    return JsonAnswer({"object": "response.input_tokens", "input_tokens": count})


def _keep(store: ResponseStore, owner: str, conversation: tuple[bytes, ...], response: dict[str, Any]) -> None:
    output = response["output"]
    stored = Stored(owner, msgspec.json.encode(response), conversation, msgspec.json.encode(output))
    store.add(response["id"], stored, [item["id"] for item in output])


def _forget(_response: dict[str, Any]) -> None:
    """For a response that is not to be stored."""


def _followed(service: Service, log: EventLog, after: int) -> Response:
    return FollowedStream(log.follow(after), service.metrics, service.limits.write_timeout_s)


async def show_response(service: Service, request: Request) -> Response:
    """A stored response, or how far it is. `stream=true`: its events, if it was made in the background as a stream."""
    store, response_id, owner = _named(service, request)
    unfinished = store.unfinished(response_id, owner)
    if request.query_params.get("stream") == "true":
        log = (unfinished or store.get(response_id, owner)).log
        if log is None:
            message = "only a response that was made with background and stream is streamed again; leave stream out"
            raise RequestError(message, field="stream")
        after = _starting_after(request)
        log.check(after)
        return _followed(service, log, after)
    if unfinished is not None:
        return JsonAnswer(unfinished.response())
    return Response(store.get(response_id, owner).response, media_type=JsonAnswer.media_type)


def _starting_after(request: Request) -> int:
    asked = request.query_params.get("starting_after")
    if asked is None:
        return -1
    if not re.fullmatch(r"[0-9]{1,9}", asked):
        raise RequestError("starting_after should be the sequence_number of an event", field="starting_after")
    return int(asked)


async def cancel_response(service: Service, request: Request) -> Response:
    """Make no more of a response that is being made in the background. One that is over stays as it is."""
    store, response_id, owner = _named(service, request)
    unfinished = store.unfinished(response_id, owner)
    if unfinished is not None:
        await unfinished.cancel()
    stored = store.get(response_id, owner)
    if not stored.in_background:
        raise RequestError("only a response that was made in the background can be cancelled", field="response_id")
    return Response(stored.response, media_type=JsonAnswer.media_type)


async def delete_response(service: Service, request: Request) -> Response:
    """Forget a stored response. One that is being made is cancelled first."""
    store, response_id, owner = _named(service, request)
    unfinished = store.unfinished(response_id, owner)
    if unfinished is not None:
        await unfinished.cancel()
    store.delete(response_id, owner)
    return JsonAnswer({"id": response_id, "object": "response", "deleted": True})


async def list_input_items(service: Service, request: Request) -> Response:
    """What a stored response answers, the whole conversation, newest first (`order=asc`: oldest first), in pages."""
    asked = request.query_params
    limit, order, after = asked.get("limit", str(_PAGE_ITEMS)), asked.get("order", "desc"), asked.get("after")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= _MOST_PAGE_ITEMS:
        raise RequestError(f"limit should be a number from 1 to {_MOST_PAGE_ITEMS}", field="limit")
    if order not in ("asc", "desc"):
        raise RequestError("order should be asc or desc", field="order")
    store, response_id, owner = _named(service, request)
    items = decoded((store.unfinished(response_id, owner) or store.get(response_id, owner)).before)
    if order == "desc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise RequestError(f"after names no item of this response: {after[:80]!r}", field="after")
    first = 0 if after is None else ids.index(after) + 1
    page = items[first : first + int(limit)]
    return JsonAnswer(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": first + len(page) < len(items),
        }
    )


def _named(service: Service, request: Request) -> tuple[ResponseStore, str, str]:
    return service.responses, request.path_params["response_id"], trace_of(request).caller.name
