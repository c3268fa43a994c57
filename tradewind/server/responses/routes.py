"""`/v1/responses` and what was stored there."""

import re
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tradewind.base.errors import RequestError
from tradewind.server.generation import consume
from tradewind.server.openai.entry import enter
from tradewind.server.openai.logprobs import TokenNames
from tradewind.server.responses.generating import begin
from tradewind.server.responses.items import item_id, read_items
from tradewind.server.responses.requests import ResponsesRequest
from tradewind.server.responses.shape import Keep, ResponseHead, ResponseShape
from tradewind.server.responses.store import Stored, decoded
from tradewind.server.service import Service
from tradewind.server.sse import EventStream, JsonAnswer
from tradewind.server.trace import trace_of

_PAGE_ITEMS = 20
_MOST_PAGE_ITEMS = 100


async def create_response(service: Service, request: Request) -> Response:
    """Answer a conversation of items: text, reasoning and calls of functions. OpenAI's `POST /v1/responses`."""
    asked, trace, model = await enter(service, request, ResponsesRequest)
    if asked.refused is not None:
        raise RequestError(asked.refused[1], field=asked.refused[0])
    store, owner = service.responses, trace.caller.name
    before: tuple[bytes, ...] = ()
    if asked.previous_response_id is not None:
        before = store.get(asked.previous_response_id, owner, "previous_response_id").conversation
    items = read_items(asked.input or [], lambda name: store.find_item(name, owner))
    conversation = (*before, msgspec.json.encode(items))
    generation, answering = await begin(service, request, asked, decoded(before) + items, trace)
    response_id = item_id("resp")
    keep = _keeper(service, owner, conversation) if asked.store is not False else _forget
    head = ResponseHead(response_id, model, int(time.time()), asked, answering, keep)
    shape = ResponseShape(head, generation, TokenNames(service.engine.tokenizer))
    if asked.stream:
        return EventStream(generation, shape, service.metrics, service.limits.write_timeout_s)
    await consume(generation, request.receive, lambda _first, deltas: shape.take(deltas))
    return JsonAnswer(shape.whole())


def _keeper(service: Service, owner: str, conversation: tuple[bytes, ...]) -> Keep:
    def keep(response: dict[str, Any]) -> None:
        output = response["output"]
        stored = Stored(owner, msgspec.json.encode(response), conversation, msgspec.json.encode(output))
        service.responses.add(response["id"], stored, [item["id"] for item in output])

    return keep


def _forget(_response: dict[str, Any]) -> None:
    """For a response that is not to be stored."""


async def show_response(service: Service, request: Request) -> Response:
    """A stored response."""
    if request.query_params.get("stream") == "true":
        raise RequestError("a stored response is not streamed again; leave stream out", field="stream")
    return Response(_stored(service, request).response, media_type="application/json")


async def delete_response(service: Service, request: Request) -> Response:
    """Forget a stored response."""
    response_id = request.path_params["response_id"]
    service.responses.delete(response_id, trace_of(request).caller.name)
    return JsonAnswer({"id": response_id, "object": "response", "deleted": True})


async def list_input_items(service: Service, request: Request) -> Response:
    """What a stored response answers, the whole conversation, newest first (`order=asc`: oldest first), in pages."""
    asked = request.query_params
    limit, order, after = asked.get("limit", str(_PAGE_ITEMS)), asked.get("order", "desc"), asked.get("after")
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= _MOST_PAGE_ITEMS:
        raise RequestError(f"limit should be a number from 1 to {_MOST_PAGE_ITEMS}", field="limit")
    if order not in ("asc", "desc"):
        raise RequestError("order should be asc or desc", field="order")
    items = decoded(_stored(service, request).before)
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


def _stored(service: Service, request: Request) -> Stored:
    return service.responses.get(request.path_params["response_id"], trace_of(request).caller.name)
