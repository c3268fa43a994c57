"""An answer's pieces in OpenAI's shapes: deltas of a stream, or one message."""

import json
import secrets
from collections.abc import Iterable
from typing import Any

from tradewind.text.answer_format import Reading
from tradewind.text.tool_calls import CallArguments, CallStart, Content, Piece, Reasoning


class DeltaReader:
    """Makes deltas of one choice's text. `called`: whether a tool has been called."""

    def __init__(self, reading: Reading, parallel: bool) -> None:
        """Unless `parallel`, only the first call counts."""
        self._reader = reading.begin()
        self._parallel = parallel
        self.called = False

    def push(self, text: str, is_last: bool) -> list[dict[str, Any]]:
        """The deltas for more text; `is_last`: no more will come."""
        pieces = self._reader.push(text) if text else []
        if is_last:
            pieces += self._reader.finish()
        return [delta for piece in pieces if (delta := self._delta(piece)) is not None]

    def _delta(self, piece: Piece) -> dict[str, Any] | None:
        if isinstance(piece, Content):
            return {"content": piece.text}
        if isinstance(piece, Reasoning):
            return said_to_itself(piece.text)
        if piece.index and not self._parallel:
            return None
        self.called = True
        if isinstance(piece, CallStart):
            function = {"name": piece.name, "arguments": ""}
            call = {"index": piece.index, "id": call_id(), "type": "function", "function": function}
            return {"tool_calls": [call]}
        return {"tool_calls": [{"index": piece.index, "function": {"arguments": piece.text}}]}


def message_of(text: str, reading: Reading, parallel: bool) -> dict[str, Any]:
    """A whole answer's message, without its role. Calls whose arguments are no JSON object are content, as written."""
    reader = reading.begin()
    pieces = reader.push(text) + reader.finish()
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    calls = _calls(pieces)
    if not are_objects(call["function"]["arguments"] for call in calls):
        content, calls = reading.content_of(text), []
    message: dict[str, Any] = {"content": content if content or not calls else None}
    if reading.reasoning is not None:
        message |= said_to_itself(reasoning or None)
    if calls:
        message["tool_calls"] = calls if parallel else calls[:1]
    return message


def said_to_itself(text: str | None) -> dict[str, Any]:
    """Reasoning by both of its names: that of most servers, and that of vLLM today."""
    return {"reasoning_content": text, "reasoning": text}


def _calls(pieces: list[Piece]) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            calls.append({"id": call_id(), "type": "function", "function": {"name": piece.name, "arguments": ""}})
        elif isinstance(piece, CallArguments):
            calls[piece.index]["function"]["arguments"] += piece.text
    return calls


def are_objects(arguments: Iterable[str]) -> bool:
    """Whether the arguments of each call are a JSON object."""
    try:
        return all(isinstance(json.loads(text), dict) for text in arguments)
    except (ValueError, RecursionError):
        return False


def call_id() -> str:
    """A new id for a call."""
    return f"call_{secrets.token_hex(12)}"
