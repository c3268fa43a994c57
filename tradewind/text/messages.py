"""Chat messages as templates want them: checked, copied, and in the shape that the template at hand can read."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tradewind.base.errors import RequestError

Message = dict[str, Any]


def prepare(messages: Sequence[Mapping[str, Any]], parts_wanted: bool) -> list[Message]:
    """Copies of `messages`, with `content` always there (None, text, or text parts).

    Content given as parts (`[{"type": "text", "text": ...}]`) is joined to one text unless `parts_wanted`. The
    arguments of tool calls, JSON text in the API, become objects, as templates expect. RequestError for what is wrong.
    """
    if not messages:
        raise RequestError("messages must not be empty", field="messages")
    return [_prepare_one(message, f"messages[{place}]", parts_wanted) for place, message in enumerate(messages)]


def _prepare_one(message: Mapping[str, Any], field: str, parts_wanted: bool) -> Message:
    if not isinstance(message, Mapping):
        raise RequestError(f"{field} must be an object with role and content", field="messages")
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{field}.role must be text, such as 'user'", field="messages")
    prepared: Message = {str(key): value for key, value in message.items()}
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [_text_of(part, f"{field}.content[{place}]") for place, part in enumerate(content)]
        content = [{"type": "text", "text": text} for text in parts] if parts_wanted else "".join(parts)
    elif content is not None and not isinstance(content, str):
        raise RequestError(f"{field}.content must be text or a list of text parts", field="messages")
    prepared["content"] = content
    calls = message.get("tool_calls")
    if isinstance(calls, list | tuple):
        prepared["tool_calls"] = [_with_object_arguments(call) for call in calls]
    return prepared


def _text_of(part: Any, field: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "output_text", "refusal"):
        raise RequestError(f"{field}: only parts of type 'text' are supported, not {kind!r}", field="messages")
    text = part.get("refusal" if kind == "refusal" else "text")
    if not isinstance(text, str):
        raise RequestError(f"{field}.text must be text", field="messages")
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
