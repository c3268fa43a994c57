"""A response: its items, whole or as events."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tradewind.base.errors import TradewindError
from tradewind.engine.client import Delta, Usage
from tradewind.protocol.result import TokenLogprobs
from tradewind.server.generation import Generation
from tradewind.server.openai.chat import Answering
from tradewind.server.openai.logprobs import TokenNames, chat_logprobs
from tradewind.server.openai.pieces import are_objects, call_id
from tradewind.server.responses.event_log import encoded
from tradewind.server.responses.items import Item, item_id
from tradewind.server.responses.requests import ResponsesRequest
from tradewind.text.tool_calls import CallArguments, CallStart, Content, Piece, Reasoning

Event = dict[str, Any]
Keep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What is known of a response before it begins. `keep` is given the whole response at its end."""

    id: str
    model: str
    created_s: int
    asked: ResponsesRequest
    answering: Answering
    keep: Keep


class ResponseShape:
    """One response. See EventShape."""

    def __init__(self, head: ResponseHead, generation: Generation, names: TokenNames) -> None:
        self._head = head
        self._generation = generation
        self._names = names
        self._top = head.answering.params.logprobs
        self._reader = head.answering.reading.begin()
        self._items: list[Item] = []  # those begun; the last one is open while `_open` is
        self._open = False
        self._said: list[str] = []  # of the open item
        self._logprobs: list[dict[str, Any]] = []  # of the open item
        self._waiting: list[TokenLogprobs] = []  # of tokens whose text is still held back
        self._texts: list[str] = []
        self._reasoning_tokens = 0
        self._count = head.answering.reading.count()
        self._sequence_number = 0
        self._created = False
        self._begun = False
        self._finish = "stop"

    # --- what comes --------------------------------------------------------------------------------------------------

    def queue(self) -> list[Event]:
        """The events of a response that has to wait, before anything else: for one made in the background."""
        self._created = True
        queued = self.unfinished("queued")
        return [self._event(kind, response=queued) for kind in ("response.created", "response.queued")]

    def take(self, deltas: list[Delta]) -> list[Event]:
        """Take in what is new: the events that say it."""
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            kinds = ("response.in_progress",) if self._created else ("response.created", "response.in_progress")
            started = self.unfinished("in_progress")
            events += [self._event(kind, response=started) for kind in kinds]
        for delta in deltas:
            self._texts.append(delta.text)
            pieces = self._reader.push(delta.text) if delta.text else []
            if delta.finish_reason is not None:
                pieces += self._reader.finish()
                self._finish = str(delta.finish_reason)
            self._waiting += delta.logprobs or ()
            events += [event for piece in pieces for event in self._extend(piece)]
            if self._count is not None:
                self._count.take(delta.token_ids)
                self._reasoning_tokens = self._count.tokens
            elif self._open and self._items[-1]["type"] == "reasoning":
                self._reasoning_tokens += len(delta.token_ids)
        return events

    def _extend(self, piece: Piece) -> list[Event]:
        if isinstance(piece, CallStart | CallArguments) and piece.index and not self._head.answering.parallel:
            return []
        if isinstance(piece, Content):
            return self._extend_text(piece.text)
        self._waiting = []
        if isinstance(piece, Reasoning):
            events = self._ensure({"type": "reasoning", "id": "rs", "summary": [], "content": []})
            return [*events, self._delta("response.reasoning_text.delta", piece.text, content_index=0)]
        if isinstance(piece, CallStart):
            call = {"type": "function_call", "id": "fc", "call_id": call_id(), "name": piece.name, "arguments": ""}
            return self._begin(call)
        return [self._delta("response.function_call_arguments.delta", piece.text)]

    def _extend_text(self, text: str) -> list[Event]:
        in_message = self._open and self._items[-1]["type"] == "message"
        if not in_message and not text.strip() and not self._head.answering.reading.is_plain:
            return []  # blanks between other items are nobody's text
        events = self._ensure({"type": "message", "id": "msg", "role": "assistant", "content": []})
        logprobs: list[dict[str, Any]] = []
        if self._top is not None:
            logprobs = chat_logprobs(self._waiting, self._top, self._names)["content"]
            self._waiting = []
            self._logprobs += logprobs
        return [*events, self._delta("response.output_text.delta", text, content_index=0, logprobs=logprobs)]

    # --- items -------------------------------------------------------------------------------------------------------

    def _ensure(self, item: Item) -> list[Event]:
        return [] if self._open and self._items[-1]["type"] == item["type"] else self._begin(item)

    def _begin(self, item: Item) -> list[Event]:
        """Open an item, whose id is only a prefix so far."""
        events = self._close("completed")
        item = {**item, "id": item_id(item["id"]), "status": "in_progress"}
        self._items.append(item)
        self._open, self._said, self._logprobs = True, [], []
        events.append(self._event("response.output_item.added", output_index=len(self._items) - 1, item=item))
        if item["type"] != "function_call":
            events.append(self._part_event("response.content_part.added", part=_part(item["type"], "", [])))
        return events

    def _close(self, status: str) -> list[Event]:
        """Close the item that is open."""
        if not self._open:
            return []
        item, text = self._items[-1], "".join(self._said)
        self._open = False
        if item["type"] == "function_call":
            done = {**item, "arguments": text, "status": status}
            name = "response.function_call_arguments.done"
            events = [self._item_event(name, name=item["name"], arguments=text)]
        else:
            part = _part(item["type"], text, self._logprobs)
            done = {**item, "content": [part], "status": status}
            if item["type"] == "message":
                texts = self._part_event("response.output_text.done", text=text, logprobs=self._logprobs)
            else:
                texts = self._part_event("response.reasoning_text.done", text=text)
            events = [texts, self._part_event("response.content_part.done", part=part)]
        self._items[-1] = done
        return [*events, self._event("response.output_item.done", output_index=len(self._items) - 1, item=done)]

    def _end(self) -> tuple[str, list[Event]]:
        """How the response ended, and the events that close its last item. An answer of nothing is an empty message."""
        status = "incomplete" if self._finish == "length" else "completed"
        events = (
            [] if self._items else self._begin({"type": "message", "id": "msg", "role": "assistant", "content": []})
        )
        return status, [*events, *self._close(status)]

    # --- one piece ---------------------------------------------------------------------------------------------------

    def whole(self) -> dict[str, Any]:
        """The response in one piece, when all was taken in. Calls that are no JSON are text, as written."""
        status, _ = self._end()
        items = self._items
        if not are_objects(item["arguments"] for item in items if item["type"] == "function_call"):
            text = self._head.answering.reading.content_of("".join(self._texts))
            message = {"type": "message", "id": item_id("msg"), "role": "assistant", "status": status}
            reasoning = [item for item in items if item["type"] == "reasoning"]
            items = [*reasoning, {**message, "content": [_part("message", text, [])]}]
        response = self._response(status, items, usage=self._generation.usage)
        self._head.keep(response)
        return response

    def unfinished(self, status: str) -> dict[str, Any]:
        """The response while it is being made: `queued` or `in_progress`."""
        return self._response(status, [])

    def _response(self, status: str, items: list[Item], *, usage: Usage | None = None) -> dict[str, Any]:
        asked, params = self._head.asked, self._head.answering.params
        limited = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._head.id,
            "object": "response",
            "created_at": self._head.created_s,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": asked.background is True,
            "error": None,
            "incomplete_details": limited,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "max_tool_calls": asked.max_tool_calls,
            "metadata": asked.metadata or {},
            "model": self._head.model,
            "output": items,
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": asked.previous_response_id,
            "prompt_cache_key": asked.prompt_cache_key,
            "reasoning": {"effort": asked.reasoning.effort if asked.reasoning else None, "summary": None},
            "safety_identifier": asked.safety_identifier,
            "service_tier": "default",
            "store": asked.store is not False,
            "temperature": params.temperature,
            "text": {"format": _format(asked)},
            "tool_choice": _tool_choice(asked),
            "tools": [_tool(tool.model_dump()) for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": asked.truncation or "disabled",
            **({} if usage is None else {"usage": self._usage(usage)}),
            **({} if asked.user is None else {"user": asked.user}),
        }

    def _usage(self, usage: Usage) -> dict[str, Any]:
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    # --- events ------------------------------------------------------------------------------------------------------

    def events(self, _first_choice: int, deltas: list[Delta]) -> bytes:
        """See EventShape."""
        return b"".join(map(encoded, self.take(deltas)))

    def last_events(self, usage: Usage) -> bytes:
        """See EventShape."""
        return b"".join(map(encoded, self.complete(usage)))

    def error_event(self, error: TradewindError) -> bytes:
        """See EventShape."""
        return b"".join(map(encoded, self.fail(error)))

    def complete(self, usage: Usage) -> list[Event]:
        """What ends a response that ended well."""
        status, events = self._end()
        response = self._response(status, self._items, usage=usage)
        self._head.keep(response)
        return [*events, self._event(f"response.{status}", response=response)]

    def fail(self, error: TradewindError) -> list[Event]:
        """What ends a response that failed."""
        events = self._close("incomplete")
        response = self._response("failed", self._items, usage=self._generation.usage)
        response["error"] = {"code": "server_error", "message": error.message}
        self._head.keep(response)
        return [*events, self._event("response.failed", response=response)]

    def cancel(self) -> list[Event]:
        """What ends a response that was cancelled: there is no event of that name."""
        events = self._close("incomplete")
        response = self._response("cancelled", self._items, usage=self._generation.usage)
        self._head.keep(response)
        return [*events, self._event("response.incomplete", response=response)]

    def _delta(self, kind: str, text: str, **fields: Any) -> Event:
        self._said.append(text)
        return self._item_event(kind, delta=text, **fields)

    def _part_event(self, kind: str, **fields: Any) -> Event:
        return self._item_event(kind, content_index=0, **fields)

    def _item_event(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return event


def _part(kind: str, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "strict": bool(tool["strict"])}


def _tool_choice(asked: ResponsesRequest) -> Any:
    choice = asked.tool_choice
    return choice or "auto" if choice is None or isinstance(choice, str) else choice.model_dump()


def _format(asked: ResponsesRequest) -> dict[str, Any]:
    if asked.text is None or asked.text.format is None:
        return {"type": "text"}
    return asked.text.format.model_dump(exclude_none=True, by_alias=True)
