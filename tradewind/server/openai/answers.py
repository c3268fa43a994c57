"""What both kinds of answers have in common: ids, usage, and chunks built around the strings that change."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from tradewind.base.errors import TradewindError
from tradewind.engine.client import Usage
from tradewind.server.errors import error_body
from tradewind.server.sse import JsonAnswer

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The fields that every chunk of one answer repeats."""

    id: str
    object: str
    model: str
    created_s: int

    @classmethod
    def begin(cls, prefix: str, request_id: str, object_name: str, model: str) -> "AnswerHead":
        """The head of an answer that begins now."""
        return cls(f"{prefix}-{request_id}", object_name, model, int(time.time()))

    def fields(self) -> dict[str, Any]:
        """As they stand in a whole answer."""
        return {"id": self.id, "object": self.object, "created": self.created_s, "model": self.model}


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`, with the tokens that the prefix cache spared and, if they were counted, those of reasoning."""
    counted = usage.reasoning_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        **({} if counted is None else {"completion_tokens_details": {"reasoning_tokens": counted}}),
    }


def encoded(value: Any) -> msgspec.Raw:
    """A part of an answer, encoded by itself: what is encoded at once holds up all threads."""
    return msgspec.Raw(_encode(value))


async def whole_answer(build: Callable[[], dict[str, Any]], is_large: bool) -> Response:
    """An answer in one piece. One that may be large is put together by a thread, and streams go on."""
    if not is_large:
        return JsonAnswer(build())
    body = await asyncio.to_thread(lambda: _encode(build()))
    return Response(body, media_type=JsonAnswer.media_type)


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + _encode(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def error_event(error: TradewindError) -> bytes:
    """What ends a stream that failed."""
    return b"data: " + error_body(error) + b"\n\n"


class ChunkFrame:
    """The constant parts of one answer's chunks, encoded once.

    `before` and `after` stand around the text inside a choice: for chat `"delta":{"content":` and `}`.
    """

    def __init__(self, head: AnswerHead, before: bytes, after: bytes, null_usage: bool) -> None:
        self._head = head
        self._null_usage = null_usage
        self._start = b"data: " + _encode(head.fields())[:-1] + b',"choices":[{"index":'
        self._before = b"," + before
        self._end = after + b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null}' if null_usage else b"}")
        self._end += b"\n\n"
        self._starts: dict[int, bytes] = {}

    def text(self, choice: int, text: str) -> bytes:
        """The chunk that says `text` and nothing else: the one that is sent for almost every token."""
        start = self._starts.get(choice)
        if start is None:
            start = self._starts[choice] = self._start + b"%d" % choice + self._before
        return start + _encode(text) + self._end

    def choice(self, choice: dict[str, Any], usage: Usage | None = None) -> bytes:
        """A chunk with any one choice; `usage` for continuous usage."""
        chunk = {**self._head.fields(), "choices": [choice]}
        if usage is not None:
            chunk["usage"] = usage_object(usage)
        elif self._null_usage:
            chunk["usage"] = None
        return event(chunk)

    def usage(self, usage: Usage) -> bytes:
        """The last chunk: no choice, all tokens."""
        return event({**self._head.fields(), "choices": [], "usage": usage_object(usage)})
