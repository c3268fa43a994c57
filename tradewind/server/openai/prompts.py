"""What a request says to the model, as token ids."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tradewind.base.errors import ContextLengthExceeded, RequestError
from tradewind.server.openai.pieces import said_to_itself
from tradewind.server.openai.requests import MAX_TOKEN_IDS, GenerationRequest, Message
from tradewind.server.openai.tools import ToolUse, described
from tradewind.text import harmony
from tradewind.text.tokenizer import LONG_CHARS
from tradewind.text.tool_formats import BodyKind, format_of, knows_tools

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer

MAX_PROMPTS = 1024

TextOrIds = str | list[int]


def parse_prompts(prompt: Any) -> list[TextOrIds]:
    """The four forms of a completion's prompt, as a list of texts or of token ids. Raises RequestError."""
    if prompt is None:
        raise RequestError("prompt is missing", field="prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        raise RequestError("prompt should be a text, a list of texts, token ids or a list of those", field="prompt")
    if not prompt:
        raise RequestError("prompt should not be an empty list", field="prompt")
    if _is_id(prompt[0]):
        return [_ids(prompt, "prompt")]
    if len(prompt) > MAX_PROMPTS:
        raise RequestError(f"prompt has {len(prompt)} entries; at most {MAX_PROMPTS} are allowed", field="prompt")
    return [_text_or_ids(entry, f"prompt[{index}]") for index, entry in enumerate(prompt)]


def _text_or_ids(entry: Any, path: str) -> TextOrIds:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, list):
        return _ids(entry, path)
    raise RequestError(f"{path} should be a text or a list of token ids, not {str(entry)[:40]!r}", field=path)


def _ids(entry: list[Any], path: str) -> list[int]:
    if not entry:
        raise RequestError(f"{path} should hold at least one token id", field=path)
    if len(entry) > MAX_TOKEN_IDS:
        message = f"{path} has {len(entry)} token ids; at most {MAX_TOKEN_IDS} are allowed"
        raise ContextLengthExceeded(message, field=path)
    if set(map(type, entry)) != {int}:
        index, token = next((index, token) for index, token in enumerate(entry) if not _is_id(token))
        where = f"{path}[{index}]"
        raise RequestError(f"{where} should be a token id (a whole number), not {str(token)[:40]!r}", field=where)
    return entry


def _is_id(value: Any) -> bool:
    return type(value) is int


async def encode(tokenizer: "Tokenizer", text: str, add_special_tokens: bool) -> list[int]:
    """Tokens of `text`; a long text does not hold up the event loop."""
    (tokens,) = await _encode_all(tokenizer, [text], add_special_tokens)
    return tokens


async def _encode_all(tokenizer: "Tokenizer", texts: list[str], add_special_tokens: bool) -> list[list[int]]:
    if sum(map(len, texts)) < LONG_CHARS:
        return [tokenizer.encode(text, add_special_tokens) for text in texts]
    return await asyncio.to_thread(tokenizer.encode_batch, texts, add_special_tokens)


async def encode_prompts(tokenizer: "Tokenizer", prompts: list[TextOrIds], add_special_tokens: bool) -> list[list[int]]:
    """Token ids of a completion's prompts. Raises RequestError for a text without any token."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await _encode_all(tokenizer, texts, add_special_tokens))
    tokens = [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]
    for index, ids in enumerate(tokens):
        if not ids:
            path = "prompt" if len(prompts) == 1 else f"prompt[{index}]"
            raise RequestError(f"{path} is empty: it holds no token to continue from", field=path)
    return tokens


def truncated(prompt: list[int], asked: GenerationRequest, room: int) -> list[int]:
    """The end of a prompt, of as many tokens as the request's `truncate_prompt_tokens` says; -1: of `room`, at most.

    Raises RequestError for a number that is none.
    """
    most = asked.truncate_prompt_tokens
    if most is None:
        return prompt
    if most < -1 or most == 0:
        message = f"truncate_prompt_tokens must be at least 1, or -1 for what the context has room for, not {most}"
        raise RequestError(message, field="truncate_prompt_tokens")
    return prompt[-max(1, room) :] if most == -1 else prompt[-most:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages, and how to write them as a prompt."""

    messages: list[Message]
    add_generation_prompt: bool | None = None  # None: unless the last message is to be continued
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None  # on top of what the template writes
    variables: dict[str, Any] | None = None
    tools: ToolUse | None = None


async def encode_chat(tokenizer: "Tokenizer", talk: Conversation) -> list[int]:
    """The conversation as the model's template writes it, as token ids. Raises RequestError with its field.

    In a thread: a template is a program of somebody else's, and may use all the time it is allowed.
    """
    template = tokenizer.chat_template
    if template is None:
        message = "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE"
        raise RequestError(message, field="messages")
    if talk.add_generation_prompt and talk.continue_final_message:
        message = "continue_final_message goes without add_generation_prompt: set one of them to false"
        raise RequestError(message, field="continue_final_message")
    generate = not talk.continue_final_message if talk.add_generation_prompt is None else talk.add_generation_prompt

    def render_and_encode() -> list[int]:
        turns = [_with_reasoning(message.model_dump(exclude_unset=True)) for message in talk.messages]
        tools = None if talk.tools is None else talk.tools.definitions
        if talk.tools is not None and not knows_tools(template.source):
            turns, tools = described(turns, talk.tools), None
        if format_of(template.source).body is BodyKind.HARMONY:
            turns, tools = harmony.told(turns), None if tools is None else harmony.described(tools)
        text = template.render(
            turns,
            tools=tools,
            add_generation_prompt=generate,
            continue_final_message=bool(talk.continue_final_message),
            variables=talk.variables,
        )
        return tokenizer.encode(text, bool(talk.add_special_tokens))

    tokens = await asyncio.to_thread(render_and_encode)
    if not tokens:
        raise RequestError("the chat template made no text of these messages", field="messages")
    return tokens


def _with_reasoning(turn: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning, if it has any, has both of its names: templates know one or the other."""
    thought = turn.get("reasoning_content") or turn.get("reasoning")
    return {**turn, **said_to_itself(thought)} if isinstance(thought, str) and thought else turn
