"""What one HTTP request leaves behind: the fields of its log line, filled in on the way."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from tradewind.engine.client import Usage
from tradewind.protocol.sampling import SamplingParams
from tradewind.server.allowance import Ticket
from tradewind.server.keys import Caller

SCOPE_KEY = "tradewind.trace"

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(slots=True)
class Trace:
    """One request. `send` is the connection's own ASGI send, below every middleware: bodies need none of them."""

    request_id: str
    named: bool  # the client chose the id, in its header
    caller: Caller
    started_s: float  # monotonic
    send: Any
    ticket: Ticket | None = None  # of a request that is counted
    status: int = 0
    model: str | None = None
    params: SamplingParams | None = None
    sequences: list[int] = field(default_factory=list)  # the engine's ids
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_s: float | None = None
    finish: str | None = None
    error: str | None = None
    ignored: list[str] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None  # what goes on after the answer, and is part of the request

    def rename(self, request_id: str | None) -> None:
        """Take an id from the request's body, if it is sane and no header gave one."""
        if request_id is not None and not self.named and is_request_id(request_id):
            self.request_id = request_id

    def note_usage(self, usage: Usage) -> None:
        """What the request has cost so far."""
        self.prompt_tokens = usage.prompt_tokens
        self.cached_tokens = usage.cached_tokens
        self.completion_tokens = usage.completion_tokens
        if self.ticket is not None:
            self.ticket.note(usage.prompt_tokens, usage.completion_tokens)

    def fields(self) -> dict[str, Any]:
        """The fields that are known, for the log."""
        values = {
            "key": self.caller.name or None,
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "ttft_ms": None if self.ttft_s is None else round(self.ttft_s * 1e3, 1),
            "finish": self.finish,
            "error": self.error,
        }
        return {name: value for name, value in values.items() if value is not None}


def is_request_id(text: str) -> bool:
    """Whether a client's id can go into headers and logs as it is."""
    return _REQUEST_ID.fullmatch(text) is not None


def trace_of(request: Request) -> Trace:
    """The trace of the request at hand."""
    trace = request.scope[SCOPE_KEY]
    assert isinstance(trace, Trace)
    return trace
