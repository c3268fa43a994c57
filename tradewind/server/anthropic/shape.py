"""An answer as Anthropic's message: content blocks, whole or as events."""

import json
import secrets
from typing import Any

import msgspec

from tradewind.base.errors import TradewindError
from tradewind.engine.client import Delta, Usage
from tradewind.server.anthropic.errors import error_object
from tradewind.server.generation import Choice, Generation
from tradewind.text.answer_format import Reading
from tradewind.text.tool_calls import CallArguments, CallStart, Content, Piece, Reasoning


class MessageShape:
    """One message. See EventShape."""

    def __init__(self, message_id: str, model: str, reading: Reading, parallel: bool, generation: Generation) -> None:
        """Unless `parallel`, only the first call counts."""
        self._id = message_id
        self._model = model
        self._reading = reading
        self._parallel = parallel
        self._generation = generation
        self._reader = reading.begin()
        self._blocks: list[dict[str, Any]] = []  # those begun; the last one is open
        self._begun = False
        self._finish: tuple[str, str | int | None] = ("stop", None)

    # --- one piece ---------------------------------------------------------------------------------------------------

    def whole(self, choice: Choice) -> dict[str, Any]:
        """The answer in one piece."""
        for piece in [*self._reader.push(choice.text), *self._reader.finish()]:
            self._extend(piece)
        self._finish = (choice.finish_reason, choice.stop_reason)
        blocks = [_closed(block) for block in self._blocks]
        return self._message(blocks, self._generation.usage) | self._ending()

    def _message(self, blocks: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }

    def _ending(self) -> dict[str, Any]:
        reason, stop = self._finish
        if isinstance(stop, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": stop}
        called = any(block["type"] == "tool_use" for block in self._blocks)
        ended = "max_tokens" if reason == "length" else "tool_use" if called else "end_turn"
        return {"stop_reason": ended, "stop_sequence": None}

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _extend(self, piece: Piece) -> list[dict[str, Any]]:
        """Take in a piece: the events that say it."""
        if isinstance(piece, CallStart | CallArguments) and piece.index and not self._parallel:
            return []
        if isinstance(piece, CallStart):
            block_id = f"toolu_{secrets.token_hex(12)}"
            return self._open({"type": "tool_use", "id": block_id, "name": piece.name, "input": ""})
        if isinstance(piece, CallArguments):
            return self._add("tool_use", "input", piece.text, {"type": "input_json_delta", "partial_json": piece.text})
        if isinstance(piece, Reasoning):
            events = self._ensure({"type": "thinking", "thinking": "", "signature": ""})
            delta = {"type": "thinking_delta", "thinking": piece.text}
            return events + self._add("thinking", "thinking", piece.text, delta)
        assert isinstance(piece, Content)
        if not piece.text.strip() and (not self._blocks or self._blocks[-1]["type"] != "text"):
            return []  # blanks between other blocks are nobody's text
        events = self._ensure({"type": "text", "text": ""})
        return events + self._add("text", "text", piece.text, {"type": "text_delta", "text": piece.text})

    def _ensure(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        return [] if self._blocks and self._blocks[-1]["type"] == block["type"] else self._open(block)

    def _open(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        events = self._close()
        shown = {**block, "input": {}} if block["type"] == "tool_use" else dict(block)
        self._blocks.append(block)
        return [*events, {"type": "content_block_start", "index": len(self._blocks) - 1, "content_block": shown}]

    def _close(self) -> list[dict[str, Any]]:
        return [{"type": "content_block_stop", "index": len(self._blocks) - 1}] if self._blocks else []

    def _add(self, kind: str, name: str, text: str, delta: dict[str, Any]) -> list[dict[str, Any]]:
        block = self._blocks[-1]
        assert block["type"] == kind, (block, kind)
        block[name] += text
        return [{"type": "content_block_delta", "index": len(self._blocks) - 1, "delta": delta}]

    # --- events ------------------------------------------------------------------------------------------------------

    def events(self, _first_choice: int, deltas: list[Delta]) -> bytes:
        """See EventShape."""
        events = []
        if not self._begun:
            self._begun = True
            events.append({"type": "message_start", "message": self._message([], self._generation.usage)})
        for delta in deltas:
            pieces = self._reader.push(delta.text) if delta.text else []
            if delta.finish_reason is not None:
                pieces += self._reader.finish()
                self._finish = (delta.finish_reason, delta.stop_reason)
            events += [event for piece in pieces for event in self._extend(piece)]
        return b"".join(map(_event, events))

    def last_events(self, usage: Usage) -> bytes:
        """See EventShape."""
        ending = {"type": "message_delta", "delta": self._ending(), "usage": _usage(usage)}
        return b"".join(map(_event, [*self._close(), ending, {"type": "message_stop"}]))

    def error_event(self, error: TradewindError) -> bytes:
        """See EventShape."""
        return _event(error_object(error))


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (str(value["type"]).encode(), msgspec.json.encode(value))


def _usage(usage: Usage) -> dict[str, int]:
    """What the prefix cache spared is counted apart."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _closed(block: dict[str, Any]) -> dict[str, Any]:
    """A block as it stands in a whole message; arguments that are no JSON object are kept as they were written."""
    if block["type"] != "tool_use":
        return block
    try:
        arguments = json.loads(block["input"])
    except (ValueError, RecursionError):
        arguments = None
    return {**block, "input": arguments if isinstance(arguments, dict) else {"arguments": block["input"]}}
