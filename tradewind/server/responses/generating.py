"""A response's request as a chat completion's, which everything behind the routes speaks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from tradewind.base.errors import RequestError
from tradewind.server.body import LARGE_LIST, aside, validate
from tradewind.server.generation import Generation, Job
from tradewind.server.openai.chat import Answering, conversation_of, prepare
from tradewind.server.openai.prompts import encode_chat
from tradewind.server.openai.reading import heeded
from tradewind.server.openai.requests import ChatRequest
from tradewind.server.openai.tools import tool_use
from tradewind.server.responses.items import Item, messages_of, turns_of, without_oldest
from tradewind.server.responses.requests import (
    AllowedToolsChoice,
    FunctionChoice,
    FunctionTool,
    ResponsesRequest,
    TextFormat,
)
from tradewind.server.service import Service
from tradewind.server.trace import Trace

Made = tuple[Job, Answering]

_FEW_TURNS = 32  # conversations of fewer are tried as a whole first, for most of them fit
_SAME_NAMES = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "logit_bias", "stop", "ignore_eos", "priority", "cache_salt", "timeout"),
    *("chat_template_kwargs", "parallel_tool_calls", "thinking_token_budget"),
)
# The names of a chat completion's fields, and what they are called here.
_NAMES = (
    (r"max_tokens|max_completion_tokens", "max_output_tokens"),
    (r"response_format\.json_schema", "text.format"),
    (r"response_format", "text.format"),
    (r"tools\[(\d+)\]\.function", r"tools[\1]"),
    (r"tool_choice\.function", "tool_choice"),
    (r"messages(\[.*)?|prompt", "input"),
    (r"reasoning_effort", "reasoning.effort"),
    (r"logprobs", "top_logprobs"),
)


async def begin(
    service: Service, request: Request, asked: ResponsesRequest, items: list[Item], trace: Trace
) -> tuple[Generation, Answering]:
    """Start answering `items`. Raises RequestError with the names of `asked`, and what `AsyncEngine.submit` raises."""
    asked.thinking_token_budget = heeded(asked.thinking_token_budget, service.engine.tokenizer, trace)
    with _own_names():
        make = _Maker(service, request, asked, items, trace)
        job, answering = await (make.shortened() if asked.truncation == "auto" else make.after(0))
        return Generation(service, job, trace), answering


async def count_tokens(service: Service, asked: ResponsesRequest, items: list[Item]) -> int:
    """The length of the prompt that `items` make. Raises RequestError with the names of `asked`."""
    with _own_names():
        chat = await aside(len(items) >= LARGE_LIST, lambda: as_chat(asked, items))
        return len(await encode_chat(service.engine.tokenizer, conversation_of(chat, tool_use(chat))))


def as_chat(asked: ResponsesRequest, items: list[Item]) -> ChatRequest:
    """The same request for a chat completion."""
    messages = messages_of(asked.instructions, items)
    if not messages:
        raise RequestError("input is missing", field="input")
    body: dict[str, Any] = {"messages": messages}
    body |= {name: value for name in _SAME_NAMES if (value := getattr(asked, name)) is not None}
    if asked.max_output_tokens is not None:
        body["max_completion_tokens"] = asked.max_output_tokens
    if asked.logprobs_wanted:
        body |= {"logprobs": True, "top_logprobs": asked.top_logprobs or 0}
    if asked.tools:
        body["tools"] = [_tool(tool) for tool in asked.tools]
    if asked.tool_choice is not None:
        body["tool_choice"] = _choice(asked.tool_choice)
    if asked.reasoning is not None and asked.reasoning.effort is not None:
        body["reasoning_effort"] = asked.reasoning.effort
    if asked.text is not None and asked.text.format is not None:
        body["response_format"] = _format(asked.text.format)
    return validate(ChatRequest, body)


def _choice(choice: str | FunctionChoice | AllowedToolsChoice) -> Any:
    if isinstance(choice, str):
        return choice
    if isinstance(choice, FunctionChoice):
        return {"type": "function", "function": {"name": choice.name}}
    allowed = {"mode": choice.mode, "tools": [_choice(tool) for tool in choice.tools]}
    return {"type": "allowed_tools", "allowed_tools": allowed}


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"})}


def _format(asked: TextFormat) -> dict[str, Any]:
    if asked.type != "json_schema":
        return {"type": asked.type}
    if asked.schema_ is None:
        raise RequestError("text.format.schema is missing", field="text.format.schema")
    return {"type": "json_schema", "json_schema": {"name": asked.name or "", "schema": asked.schema_}}


class _Maker:
    """Makes jobs of a conversation, or of its end."""

    def __init__(
        self, service: Service, request: Request, asked: ResponsesRequest, items: list[Item], trace: Trace
    ) -> None:
        self._service = service
        self._request = request
        self._asked = asked
        self._items = items
        self._trace = trace

    async def after(self, cut: int) -> Made:
        """Without the items before place `cut`."""
        items = without_oldest(self._items, cut)
        chat = await aside(len(items) >= LARGE_LIST, lambda: as_chat(self._asked, items))
        return await prepare(self._service, self._request, chat, self._trace)

    async def shortened(self) -> Made:
        """The longest end of the conversation that fits, from one of the user's messages on; else its last turn.

        A conversation of many turns is tried from its end, twice as much each time: what is written and counted is then
        in proportion to what fits, not to what was sent.
        """
        cuts = [0, *turns_of(self._items)]
        low, high, step = 0, len(cuts) - 1, 1
        if high < _FEW_TURNS:
            whole = await self.after(0)
            if self._fits(whole) or not high:
                return whole
            low = 1
        best = await self.after(cuts[high])
        while low < high and self._fits(best):  # `high` fits, and nothing before `low` does
            middle = max(low, high - step) if step else (low + high) // 2
            made = await self.after(cuts[middle])
            if self._fits(made):
                best, high, step = made, middle, 2 * step
            else:
                low, step = middle + 1, 0
        return best

    def _fits(self, made: Made) -> bool:
        job = made[0]
        return len(job.prompts[0]) + (job.params.max_tokens or 1) <= self._service.context_tokens


@contextmanager
def _own_names() -> Iterator[None]:
    """Errors name the fields of this route's body."""
    try:
        yield
    except RequestError as error:
        error.message = error.message.replace("max_tokens", "max_output_tokens")
        error.message = re.sub(r"^messages(?= has \d+ entries)", "input", error.message)
        error.message = re.sub(r"^logprobs\b", "top_logprobs", error.message)
        for theirs, ours in _NAMES:
            found = re.match(rf"(?:{theirs})(?=[.\[]|$)", error.field or "")
            if found:
                error.field = found.expand(ours) + (error.field or "")[found.end() :]
                break
        raise
