"""`POST /v1/chat/completions`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tradewind.base.errors import RequestError, TradewindError
from tradewind.engine.client import Delta, Usage
from tradewind.protocol.sampling import SamplingParams
from tradewind.server.generation import Choice, Generation, Job, Told, collect
from tradewind.server.openai.answers import (
    DONE,
    AnswerHead,
    ChunkFrame,
    encoded,
    error_event,
    usage_object,
    whole_answer,
)
from tradewind.server.openai.beams import beam_params, search_beams
from tradewind.server.openai.entry import enter
from tradewind.server.openai.logprobs import TokenNames, chat_logprobs, prompt_logprobs
from tradewind.server.openai.pieces import DeltaReader, message_of
from tradewind.server.openai.prompts import Conversation, encode_chat, truncated
from tradewind.server.openai.reading import force_call, frame_answer, heeded, let_reason, reading_of
from tradewind.server.openai.requests import ChatRequest
from tradewind.server.openai.sampling import chat_sampling
from tradewind.server.openai.structured import field_of
from tradewind.server.openai.tools import ToolUse, tool_use
from tradewind.server.service import Service
from tradewind.server.sse import EventStream
from tradewind.server.trace import Trace
from tradewind.text.answer_format import Reading, ReasoningCount

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer


async def chat_completions(service: Service, request: Request) -> Response:
    """The route."""
    asked, trace, model = await enter(service, request, ChatRequest)
    asked.thinking_token_budget = heeded(asked.thinking_token_budget, service.engine.tokenizer, trace)
    with _own_names(asked):
        return await _answer(service, request, asked, trace, model)


@contextmanager
def _own_names(asked: ChatRequest) -> Iterator[None]:
    """Errors name the fields that the request has, where several are one to the engine."""
    try:
        yield
    except RequestError as error:
        if error.field == "logprobs":
            error.field = "top_logprobs"
            error.message = re.sub(r"^logprobs\b", "top_logprobs", error.message)
        elif error.field == "max_tokens" and asked.max_completion_tokens is not None:
            error.field = "max_completion_tokens"
            error.message = error.message.replace("max_tokens", "max_completion_tokens")
        raise


async def _answer(service: Service, request: Request, asked: ChatRequest, trace: Trace, model: str) -> Response:
    job, answering = await prepare(service, request, asked, trace)
    kind = "chat.completion.chunk" if asked.stream else "chat.completion"
    head = AnswerHead.begin("chatcmpl", trace.request_id, kind, model)
    search = beam_params(asked, job.params, job.params.n)
    if search is not None:
        choices, found = await search_beams(service, job, search, trace, request.receive)
        shape = ChatShape(asked, answering, service.engine.tokenizer, found, job.prompts[0], head)
        return await whole_answer(lambda: shape.whole(choices), asked.more_than_text)
    generation = Generation(service, job, trace)
    shape = ChatShape(asked, answering, service.engine.tokenizer, generation, job.prompts[0], head)
    if asked.stream:
        return EventStream(generation, shape, service.metrics, service.limits.write_timeout_s)
    choices = await collect(generation, job.params.n, request.receive)
    return await whole_answer(lambda: shape.whole(choices), asked.more_than_text)


async def prepare(service: Service, request: Request, asked: ChatRequest, trace: Trace) -> "tuple[Job, Answering]":
    """What to generate for a conversation, and how the answers are to be read. Raises RequestError."""
    engine = service.engine
    use = tool_use(asked)
    params = chat_sampling(asked, engine.defaults)
    await engine.compile(params, field_of(asked))
    tokens = await encode_chat(engine.tokenizer, conversation_of(asked, use))
    tokens = truncated(tokens, asked, service.context_tokens - (params.max_tokens or 1))
    reading = reading_of(engine.tokenizer, tokens, use)
    if use is not None and use.forced is not None:
        params = await force_call(engine, params, use, reading)
    else:
        params = await frame_answer(engine, params, reading, field_of(asked))
    params = let_reason(params, reading, engine.tokenizer)
    job = Job(
        prompts=[tokens],
        params=params,
        priority=asked.priority or 0,
        timeout_s=service.timeout_s(request, asked.timeout),
        cache_salt=trace.caller.salt(asked.cache_salt),
    )
    return job, Answering(params, reading, use)


def conversation_of(asked: ChatRequest, use: ToolUse | None) -> Conversation:
    """The messages, and what the template is to be told besides."""
    variables = dict(asked.chat_template_kwargs or {})
    if asked.documents is not None:
        variables.setdefault("documents", asked.documents)
    if asked.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", asked.reasoning_effort)
        if asked.reasoning_effort == "none":
            variables.setdefault("enable_thinking", False)
    return Conversation(
        messages=asked.messages,
        add_generation_prompt=asked.add_generation_prompt,
        continue_final_message=asked.continue_final_message,
        add_special_tokens=asked.add_special_tokens,
        variables=variables or None,
        tools=use,
    )


@dataclass(frozen=True, slots=True)
class Answering:
    """What the shape of an answer depends on."""

    params: SamplingParams
    reading: Reading
    use: ToolUse | None

    @property
    def parallel(self) -> bool:
        """Whether more than the first call counts."""
        return self.use is None or self.use.parallel

    def finish_reason(self, reason: str, called: bool) -> str:
        """OpenAI's: an answer that calls tools ends for that, unless the request named the one."""
        is_named = self.use is not None and self.use.is_named
        return "tool_calls" if called and reason == "stop" and not is_named else reason


class ChatShape:
    """Chat completions, whole or as events."""

    def __init__(
        self,
        asked: ChatRequest,
        answering: Answering,
        tokenizer: "Tokenizer",
        generation: Told,
        prompt: list[int],
        head: AnswerHead,
    ) -> None:
        self._asked = asked
        self._generation = generation
        self._prompt = prompt
        self._head = head
        self._answering = answering
        self._top = answering.params.logprobs
        self._names = TokenNames(tokenizer, bool(asked.return_tokens_as_token_ids))
        self._frame = ChunkFrame(head, b'"delta":{"content":', b"}", asked.usage_wanted)
        self._readers: dict[int, DeltaReader] = {}
        self._counts: dict[int, ReasoningCount] = {}
        self._plain = (
            answering.reading.is_plain
            and self._top is None
            and not asked.return_token_ids
            and not asked.usage_in_every_chunk
        )
        self._echoed = self._echo_text() if asked.echo else ""
        self._begun: set[int] = set()

    def _echo_text(self) -> str:
        last = self._asked.messages[-1]
        if isinstance(last.content, list):
            return "".join(part.text or "" for part in last.content)
        return last.content or ""

    # --- one piece ---------------------------------------------------------------------------------------------------

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        """The answer in one piece."""
        answer: dict[str, Any] = {
            **self._head.fields(),
            "choices": [encoded(self._whole_choice(index, choice)) for index, choice in enumerate(choices)],
            "usage": usage_object(self._usage()),
        }
        if self._asked.prompt_logprobs is not None:
            answer["prompt_logprobs"] = prompt_logprobs(self._generation.prompt_logprobs.get(0, []), self._names)
        if self._asked.return_token_ids:
            answer["prompt_token_ids"] = self._prompt
        return answer

    def _usage(self) -> Usage:
        """So far."""
        usage = self._generation.usage
        if not self._counts:
            return usage
        return msgspec.structs.replace(usage, reasoning_tokens=sum(count.tokens for count in self._counts.values()))

    def _count(self, index: int, token_ids: list[int]) -> None:
        if index not in self._counts:
            count = self._answering.reading.count()
            if count is None:
                return
            self._counts[index] = count
        self._counts[index].take(token_ids)

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        self._count(index, choice.token_ids)
        message: dict[str, Any] = {"role": "assistant", "content": self._echoed + choice.text, "refusal": None}
        if not self._answering.reading.is_plain:
            message |= message_of(choice.text, self._answering.reading, self._answering.parallel)
            message = self._without_reasoning(message)
        answer: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": None if self._top is None else chat_logprobs(choice.logprobs, self._top, self._names),
            "finish_reason": self._answering.finish_reason(choice.finish_reason, "tool_calls" in message),
            "stop_reason": choice.stop_reason,
        }
        if self._asked.return_token_ids:
            answer["token_ids"] = choice.token_ids
        return answer

    def _without_reasoning(self, content: dict[str, Any]) -> dict[str, Any]:
        """A message or a part of one, as the request wants it."""
        if self._asked.include_reasoning is not False:
            return content
        return {name: value for name, value in content.items() if name not in ("reasoning", "reasoning_content")}

    # --- events ------------------------------------------------------------------------------------------------------

    def events(self, _first_choice: int, deltas: list[Delta]) -> bytes:
        """See EventShape."""
        if self._plain and len(deltas) == 1 and deltas[0].finish_reason is None and deltas[0].index in self._begun:
            delta = deltas[0]  # nearly every token comes this way
            return self._frame.text(delta.index, delta.text) if delta.text else b""
        return b"".join([self._event(delta) for delta in deltas])

    def _event(self, delta: Delta) -> bytes:
        begin = b""
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            begin = self._role_event(delta.index)
        if self._plain and delta.finish_reason is None:
            return begin + (self._frame.text(delta.index, delta.text) if delta.text else b"")
        if not self._answering.reading.is_plain:
            return begin + self._read_event(delta)
        content = {"content": delta.text} if delta.text or delta.finish_reason is None else {}
        return begin + self._choice_event(delta, content, delta.finish_reason)

    def _read_event(self, delta: Delta) -> bytes:
        """The events of an answer that is taken apart; the last of them has what is not text."""
        self._count(delta.index, delta.token_ids)
        reader = self._readers.get(delta.index)
        if reader is None:
            answering = self._answering
            reader = self._readers[delta.index] = DeltaReader(answering.reading, answering.parallel)
        reason = delta.finish_reason
        said = map(self._without_reasoning, reader.push(delta.text, is_last=reason is not None))
        contents = [content for content in said if content]
        finish = None if reason is None else self._answering.finish_reason(reason, reader.called)
        if not contents and finish is None and self._top is None and not self._asked.return_token_ids:
            return b""
        if finish is not None or not contents:
            contents.append({})
        silent = [self._text_event(delta.index, content) for content in contents[:-1]]
        return b"".join(silent) + self._choice_event(delta, contents[-1], finish)

    def _text_event(self, index: int, content: dict[str, Any]) -> bytes:
        return self._frame.choice({"index": index, "delta": content, "logprobs": None, "finish_reason": None})

    def _choice_event(self, delta: Delta, content: dict[str, Any], finish_reason: str | None) -> bytes:
        choice: dict[str, Any] = {
            "index": delta.index,
            "delta": content,
            "logprobs": None if self._top is None else chat_logprobs(delta.logprobs or [], self._top, self._names),
            "finish_reason": finish_reason,
        }
        if finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
        if self._asked.return_token_ids:
            choice["token_ids"] = delta.token_ids
        return self._frame.choice(choice, self._usage() if self._asked.usage_in_every_chunk else None)

    def _role_event(self, index: int) -> bytes:
        delta = {"role": "assistant", "content": self._echoed}
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return self._frame.choice(choice, self._usage() if self._asked.usage_in_every_chunk else None)

    def last_events(self, _usage: Usage) -> bytes:
        """See EventShape."""
        return (self._frame.usage(self._usage()) if self._asked.usage_wanted else b"") + DONE

    def error_event(self, error: TradewindError) -> bytes:
        """See EventShape."""
        return error_event(error)
