"""`tools`, `tool_choice` and `parallel_tool_calls`: what may be called, what must be, and how the model is told."""

from dataclasses import dataclass
from typing import Any

from tradewind.base.errors import RequestError
from tradewind.server.openai.requests import (
    TOOL_CHOICES,
    AllowedToolsChoice,
    ChatRequest,
    NamedToolChoice,
    ToolDefinition,
)
from tradewind.text.tool_formats import Tool, instructions

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request says about tools.

    `definitions`: as the template gets them. `forced`: one of these must be called; None: the model decides.
    """

    definitions: list[dict[str, Any]]
    tools: list[Tool]
    forced: list[Tool] | None
    is_named: bool
    parallel: bool

    @property
    def schemas(self) -> dict[str, Any]:
        """Name -> schema of the arguments."""
        return {tool.name: tool.parameters for tool in self.tools}


def tool_use(request: ChatRequest) -> ToolUse | None:
    """None if the model is to know of no tools. Raises RequestError with the field that is wrong."""
    choice = request.tool_choice
    if isinstance(choice, str) and choice not in TOOL_CHOICES:
        message = f"tool_choice should be one of {', '.join(TOOL_CHOICES)} or name a function, not {choice[:40]!r}"
        raise RequestError(message, field="tool_choice")
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise RequestError("tool_choice needs tools to choose from", field="tool_choice")
        return None
    tools = _tools(request.tools)
    if choice == "none":
        return None
    forced = None
    if isinstance(choice, AllowedToolsChoice):
        tools = _named(tools, [tool.function.name for tool in choice.allowed_tools.tools])
        forced = tools if choice.allowed_tools.mode == "required" else None
    elif choice == "required":
        forced = tools
    elif isinstance(choice, NamedToolChoice):
        forced = _named(tools, [choice.function.name])
    known = {tool.name for tool in tools}
    return ToolUse(
        definitions=[tool.model_dump(exclude_unset=True) for tool in request.tools if tool.function.name in known],
        tools=tools,
        forced=forced,
        is_named=isinstance(choice, NamedToolChoice),
        parallel=request.parallel_tool_calls is not False and not isinstance(choice, NamedToolChoice),
    )


def _named(tools: list[Tool], names: list[str]) -> list[Tool]:
    for name in names:
        if all(tool.name != name for tool in tools):
            raise RequestError(f"tool_choice names {name[:80]!r}, which is none of the tools", field="tool_choice")
    return [tool for tool in tools if tool.name in names]


def _tools(definitions: list[ToolDefinition]) -> list[Tool]:
    tools: dict[str, Tool] = {}
    for index, definition in enumerate(definitions):
        function = definition.function
        if function.name in tools:
            message = f"tools[{index}] has the same name as another: {function.name!r}"
            raise RequestError(message, field=f"tools[{index}].function.name")
        parameters = _NO_PARAMETERS if function.parameters is None else function.parameters
        tools[function.name] = Tool(function.name, parameters)
    return list(tools.values())


def described(messages: list[dict[str, Any]], use: ToolUse) -> list[dict[str, Any]]:
    """The conversation for a template that knows of no tools: they are told in words, and so are the calls made."""
    told = [_with_calls_as_text(message) for message in messages]
    text = instructions(use.definitions)
    if told[0]["role"] in ("system", "developer") and isinstance(told[0].get("content"), str):
        return [{**told[0], "content": f"{told[0]['content']}\n\n{text}"}, *told[1:]]
    return [{"role": "system", "content": text}, *told]


def _with_calls_as_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        return message
    functions = [call.get("function", {}) for call in calls if isinstance(call, dict)]
    texts = [f'{{"name": "{one.get("name")}", "arguments": {one.get("arguments") or "{}"}}}' for one in functions]
    content = message.get("content") if isinstance(message.get("content"), str) else ""
    return {"role": message["role"], "content": "\n".join(filter(None, [content, "; ".join(texts)]))}
