"""Anthropic's conversation, tools and settings as OpenAI's, which everything behind the routes speaks."""

import json
from typing import Any

from tradewind.base.errors import RequestError
from tradewind.server.anthropic.requests import Blocks, CountRequest, MessagesRequest, Turn
from tradewind.server.body import validate
from tradewind.server.openai.requests import ChatRequest

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def as_chat(asked: CountRequest) -> ChatRequest:
    """The same request for a chat completion. Raises RequestError for what a conversation of text cannot hold."""
    body: dict[str, Any] = {"messages": _messages(asked)}
    last = asked.messages[-1]
    if last.role == "assistant":  # the answer goes on where it ends
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if asked.tools:
        body["tools"] = [_tool(tool.name, tool.description, tool.input_schema) for tool in asked.tools]
    if asked.tool_choice is not None:
        choice = asked.tool_choice
        named = {"type": "function", "function": {"name": choice.name or ""}}
        body["tool_choice"] = _CHOICES.get(choice.type, named)
        body["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if asked.thinking is not None and asked.thinking.type != "adaptive":
        body["chat_template_kwargs"] = {"enable_thinking": asked.thinking.type == "enabled"}
        body["thinking_token_budget"] = asked.thinking.budget_tokens
    config = asked.output_config
    if config is not None and config.effort is not None:
        body["reasoning_effort"] = config.effort
    if config is not None and config.format is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"schema": config.format.schema_}}
    if isinstance(asked, MessagesRequest):
        names = ("max_tokens", "temperature", "top_p", "top_k", "stream")
        body |= {name: value for name in names if (value := getattr(asked, name)) is not None}
        if asked.stop_sequences:
            body["stop"] = asked.stop_sequences
    return validate(ChatRequest, body)


def _tool(name: str, description: str | None, schema: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "parameters": schema}
    return {
        "type": "function",
        "function": function if description is None else {**function, "description": description},
    }


def _messages(asked: CountRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if asked.system:
        system = asked.system if isinstance(asked.system, str) else _text(asked.system, "system")
        messages.append({"role": "system", "content": system})
    for index, turn in enumerate(asked.messages):
        messages += _turn(turn, f"messages[{index}].content")
    return messages


def _turn(turn: Turn, field: str) -> list[dict[str, Any]]:
    if isinstance(turn.content, str):
        return [{"role": turn.role, "content": turn.content}]
    messages: list[dict[str, Any]] = []
    texts, calls = [], []
    for index, block in enumerate(turn.content):
        kind, where = block.get("type"), f"{field}[{index}]"
        if kind == "text":
            texts.append(_text([block], where))
        elif kind == "tool_use" and turn.role == "assistant":
            function = {"name": str(block.get("name")), "arguments": json.dumps(block.get("input") or {})}
            calls.append({"id": str(block.get("id")), "type": "function", "function": function})
        elif kind == "tool_result" and turn.role == "user":
            content = block.get("content") or ""
            text = content if isinstance(content, str) else _text(content, f"{where}.content")
            messages.append({"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": text})
        elif kind not in ("thinking", "redacted_thinking"):
            raise RequestError(f"{where}: blocks of type {str(kind)[:40]!r} are not supported", field=where)
    if texts or calls:
        said: dict[str, Any] = {"role": turn.role, "content": "".join(texts) or None}
        messages.append({**said, "tool_calls": calls} if calls else said)
    return messages


def _text(blocks: Blocks, field: str) -> str:
    if not all(isinstance(block, dict) and isinstance(block.get("text"), str) for block in blocks):
        raise RequestError(f"{field}: only blocks of text are supported here", field=field)
    return "".join(block["text"] for block in blocks)
