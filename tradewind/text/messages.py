"""Chat messages as templates want them: checked, copied, and in the shape that the template at hand can read."""

import json
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

from tradewind.base.errors import RequestError

Message = dict[str, Any]


class ContentShape(Enum):
    """What a template can read as a message's content."""

    TEXT = auto()
    PARTS = auto()  # a list of {"type": "text", "text": ...}
    EITHER = auto()


def prepare(messages: Sequence[Mapping[str, Any]], shape: ContentShape) -> list[Message]:
    """Copies of `messages`, with `content` always there: None, or in a shape that the template reads.

    Parts become text by joining their texts. The arguments of tool calls, JSON text in the API, become objects, as
    templates expect. RequestError for what is wrong.
    """
    if not messages:
        raise RequestError("messages must not be empty", field="messages")
    return [_prepare_one(message, f"messages[{place}]", shape) for place, message in enumerate(messages)]


def _prepare_one(message: Mapping[str, Any], field: str, shape: ContentShape) -> Message:
    if not isinstance(message, Mapping):
        raise RequestError(f"{field} must be an object with role and content", field=field)
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{field}.role must be text, such as 'user'", field=f"{field}.role")
    prepared: Message = {str(key): value for key, value in message.items()}
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [_text_of(part, f"{field}.content[{place}]") for place, part in enumerate(content)]
        content = "".join(parts) if shape is ContentShape.TEXT else [_text_part(text) for text in parts]
    elif isinstance(content, str):
        content = [_text_part(content)] if shape is ContentShape.PARTS else content
    elif content is not None:
        raise RequestError(f"{field}.content must be text or a list of text parts", field=f"{field}.content")
    prepared["content"] = content
    calls = message.get("tool_calls")
    if isinstance(calls, list | tuple):
        prepared["tool_calls"] = [_with_object_arguments(call) for call in calls]
    return prepared


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _text_of(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "output_text", "refusal"):
        raise RequestError(f"{field}: only parts of type 'text' are supported, not {kind!r}", field=field)
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"{field}.text must be text", field=f"{field}.text")
    return text


def _with_object_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments := function.get("arguments"), str):
        return call
    try:
        parsed = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": parsed}} if isinstance(parsed, dict) else call


def mark_end(messages: list[Message], mark: str) -> None:
    """Append `mark` to the last message's text, in place. RequestError where it has none."""
    content = messages[-1]["content"]
    if isinstance(content, list) and content:
        content[-1] = {**content[-1], "text": content[-1]["text"] + mark}
    elif isinstance(content, str):
        messages[-1]["content"] = content + mark
    else:
        raise RequestError("continue_final_message needs a last message with text", field="messages")
