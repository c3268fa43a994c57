"""How the answers to one chat are to be read, and what that asks of their generation."""

from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from tradewind.base.errors import RequestError
from tradewind.protocol.sampling import SamplingParams, StructuredOutputs
from tradewind.server.openai.tools import ToolUse
from tradewind.server.trace import Trace
from tradewind.text.answer_format import AnswerFormat, Reading
from tradewind.text.tool_formats import Tool

if TYPE_CHECKING:
    from tradewind.engine.client import AsyncEngine
    from tradewind.text.tokenizer import Tokenizer

BUDGET = "thinking_token_budget"
_format_of = lru_cache(maxsize=8)(AnswerFormat.of)


def reading_of(tokenizer: "Tokenizer", prompt: list[int], use: ToolUse | None) -> Reading:
    """The reading of answers to `prompt`, whose end says whether the model has begun, or is not, to reason."""
    template = tokenizer.chat_template
    answer = _format_of("" if template is None else template.source)
    tools = None if use is None else use.schemas
    forced = use is not None and use.forced is not None
    reasoning, reasons = answer.reasoning_after(prompt, tokenizer)
    return Reading(answer, reasoning, reasons, tools, forced, answer.reasoning_ids(tokenizer))


def heeded(budget_tokens: int | None, tokenizer: "Tokenizer", trace: Trace, field: str = BUDGET) -> int | None:
    """A budget of reasoning. None where the model's cannot be told by its tokens: then `field` is called ignored."""
    if budget_tokens is None:
        return None
    template = tokenizer.chat_template
    if template is not None and _format_of(template.source).reasoning_ids(tokenizer) is not None:
        return budget_tokens
    trace.ignored.append(field)
    return None


async def force_call(engine: "AsyncEngine", params: SamplingParams, use: ToolUse, reading: Reading) -> SamplingParams:
    """`params` with a grammar of calls. Raises RequestError for schemas that cannot be kept to."""
    from tradewind.server.tool_grammar import forced_grammar  # here: it costs 50 ms that most servers never need

    assert use.forced is not None
    if params.structured_outputs is not None:
        message = "an answer that must call a tool cannot have a response format as well"
        raise RequestError(message, field="tool_choice")
    _check_size(use.forced)
    names = [tool.name for tool in use.tools]
    for tool in use.forced:
        _check_object(tool, f"tools[{names.index(tool.name)}].function.parameters")
        alone = msgspec.structs.replace(params, structured_outputs=StructuredOutputs(json=tool.parameters))
        await engine.compile(alone, f"tools[{names.index(tool.name)}].function.parameters")
    grammar = forced_grammar(reading.format.tools, use.forced, use.parallel)
    params = msgspec.structs.replace(params, structured_outputs=StructuredOutputs(grammar=grammar))
    await engine.compile(params, "tools")
    return params


async def frame_answer(engine: "AsyncEngine", params: SamplingParams, reading: Reading, field: str) -> SamplingParams:
    """`params` whose grammar, where answers are made of messages, is that of the last one of them."""
    if params.structured_outputs is None or not reading.format.is_harmony:
        return params
    from tradewind.server.tool_grammar import framed_grammar

    grammar = framed_grammar(params.structured_outputs, field)
    params = msgspec.structs.replace(params, structured_outputs=StructuredOutputs(grammar=grammar))
    await engine.compile(params, field)
    return params


def _check_object(tool: Tool, field: str) -> None:
    """Arguments have names, so whatever else a schema allows, a call needs an object."""
    kind = tool.parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise RequestError(
            f"{field}.type should be 'object' in a call that is required, not {kind!r}"[:200], field=field
        )


def _check_size(tools: list[Tool]) -> None:
    """Refuse before anything is built of them what would be refused at the end."""
    from tradewind.grammar.compile import MAX_SOURCE_BYTES

    try:
        size = sum(len(msgspec.json.encode(tool.parameters)) for tool in tools)
    except RecursionError:
        raise RequestError("tools are nested too deeply", field="tools") from None
    if size > MAX_SOURCE_BYTES:
        message = f"the parameters of the tools are {size} bytes long; at most {MAX_SOURCE_BYTES} are allowed"
        raise RequestError(message, field="tools")


def let_reason(params: SamplingParams, reading: Reading, tokenizer: "Tokenizer") -> SamplingParams:
    """`params` with marks that are special tokens shown, and with a grammar that lets the model reason first."""
    ids = {mark: tokenizer.id_of(mark) for mark in reading.format.marks(reading.tools is not None)}
    if any(token in tokenizer.special_ids for token in ids.values()):
        params = msgspec.structs.replace(params, skip_special_tokens=False)
    asked = params.structured_outputs
    if asked is None or reading.reasoning is None or reading.around is None:  # then it holds from the beginning
        return params
    opening, closing = reading.around
    begin = None if reading.reasons else opening
    asked = msgspec.structs.replace(asked, reasoning_begin=begin, reasoning_end=closing)
    return msgspec.structs.replace(params, structured_outputs=asked)
