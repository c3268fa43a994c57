"""The items of a conversation: read strictly, and written as messages for a chat template."""

import secrets
from collections.abc import Callable
from typing import Any

from tradewind.base.errors import RequestError

Item = dict[str, Any]
Message = dict[str, Any]
FindItem = Callable[[str], Item | None]

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text")


def item_id(prefix: str) -> str:
    """A new id."""
    return f"{prefix}_{secrets.token_hex(24)}"


def _id_of(item: Item, prefix: str) -> str:
    given = item.get("id")
    return given if isinstance(given, str) and given else item_id(prefix)


def read_items(asked: str | list[Item], find: FindItem) -> list[Item]:
    """The items of a request in full, each with an id. `find`: the stored item that a reference names.

    Raises RequestError with the path of what is wrong, or cannot be served.
    """
    if isinstance(asked, str):
        return [_message({"role": "user", "content": asked}, "input")]
    return [_item(item, f"input[{index}]", find) for index, item in enumerate(asked)]


def _item(item: Item, path: str, find: FindItem) -> Item:
    kind = item.get("type", "message")
    if kind == "message":
        return _message(item, path)
    if kind == "function_call":
        return _function_call(item, path)
    if kind == "function_call_output":
        return _function_call_output(item, path)
    if kind == "reasoning":
        return _reasoning(item, path)
    if kind == "item_reference":
        found = find(_text(item, "id", path))
        if found is None:
            raise RequestError(f"{path}: no item {item['id'][:80]!r} is stored here", field=f"{path}.id")
        return found
    raise RequestError(f"{path}: items of type {str(kind)[:40]!r} are not supported", field=f"{path}.type")


def _message(item: Item, path: str) -> Item:
    role = item.get("role")
    if role not in _ROLES:
        raise RequestError(f"{path}.role should be one of {', '.join(_ROLES)}", field=f"{path}.role")
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = [_part(part, where, role) for part, where in _listed(content, f"{path}.content")]
    prefix = {"type": "message", "id": _id_of(item, "msg"), "status": "completed"}
    return {**prefix, "role": role, "content": parts}


def _part(part: Any, path: str, role: str) -> Item:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "refusal":
        return {"type": kind, "refusal": _text(part, "refusal", path)}
    if kind not in _TEXT_PARTS:
        message = f"{path}: only parts of text are supported here, not {str(kind)[:40]!r}"
        raise RequestError(message, field=f"{path}.type")
    text = _text(part, "text", path)
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def _function_call(item: Item, path: str) -> Item:
    said = {name: _text(item, name, path) for name in ("call_id", "name", "arguments")}
    return {"type": "function_call", "id": _id_of(item, "fc"), "status": "completed", **said}


def _function_call_output(item: Item, path: str) -> Item:
    output = item.get("output")
    if not isinstance(output, str):
        parts = [_part(part, where, "user") for part, where in _listed(output, f"{path}.output")]
        output = content_text({"content": parts})
    call_id = _text(item, "call_id", path)
    prefix = {"type": "function_call_output", "id": _id_of(item, "fco"), "status": "completed"}
    return {**prefix, "call_id": call_id, "output": output}


def _reasoning(item: Item, path: str) -> Item:
    content, summary = (
        [
            {"type": kind, "text": _text(part if isinstance(part, dict) else {}, "text", where)}
            for part, where in _listed(item.get(name) or [], f"{path}.{name}")
        ]
        for name, kind in (("content", "reasoning_text"), ("summary", "summary_text"))
    )
    return {"type": "reasoning", "id": _id_of(item, "rs"), "summary": summary, "content": content}


def _listed(parts: Any, path: str) -> list[tuple[Any, str]]:
    """A list's entries with their paths."""
    if not isinstance(parts, list):
        raise RequestError(f"{path} should be a text or a list of parts", field=path)
    return [(part, f"{path}[{index}]") for index, part in enumerate(parts)]


def _text(item: Item, name: str, path: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise RequestError(f"{path}.{name} should be a text", field=f"{path}.{name}")
    return value


# --- as messages -----------------------------------------------------------------------------------------------------


def messages_of(instructions: str | None, items: list[Item]) -> list[Message]:
    """The conversation for a chat template.

    What the assistant reasoned, said and called in a row is one message. System messages at the beginning are one, too:
    many templates read no more.
    """
    messages: list[Message] = [] if instructions is None else [{"role": "system", "content": instructions}]
    for item in items:
        kind = item["type"]
        if kind == "message" and item["role"] != "assistant":
            _add_told(messages, item["role"], content_text(item))
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
        else:
            _add_said(messages, item)
    return [message for message in messages if message.keys() != {"role", "reasoning_content"}]


def content_text(message: Item) -> str:
    """All text of a message."""
    return "".join(part.get("text") or part.get("refusal") or "" for part in message["content"])


def _add_told(messages: list[Message], role: str, text: str) -> None:
    systems = ("system", "developer")
    if role in systems and messages and all(message["role"] in systems for message in messages):
        messages[-1]["content"] += f"\n\n{text}"
    else:
        messages.append({"role": role, "content": text})


def _add_said(messages: list[Message], item: Item) -> None:
    kind = item["type"]
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if last is None or (kind == "message" and last.keys() & {"content", "tool_calls"}) or kind == "reasoning":
        last = {"role": "assistant"}
        messages.append(last)
    if kind == "reasoning":
        last["reasoning_content"] = "".join(part["text"] for part in item["content"] or item["summary"])
    elif kind == "message":
        last["content"] = content_text(item)
    else:
        last.setdefault("content", None)
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        last.setdefault("tool_calls", []).append(call)


def turns_of(items: list[Item]) -> list[int]:
    """Where a conversation may be cut: the places of the user's messages, the first of them excepted."""
    places = [place for place, item in enumerate(items) if item.get("role") == "user"]
    return places[1:]


def without_oldest(items: list[Item], cut: int) -> list[Item]:
    """The items from place `cut` on, and what the system said before."""
    systems = [item for item in items[:cut] if item.get("role") in ("system", "developer")]
    return [*systems, *items[cut:]]
