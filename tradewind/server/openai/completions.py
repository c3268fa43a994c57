"""`POST /v1/completions`."""

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tradewind.base.errors import TradewindError
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
from tradewind.server.openai.beams import beam_params, best_samples, search_beams, with_samples
from tradewind.server.openai.entry import enter
from tradewind.server.openai.logprobs import CompletionLogprobs, TokenNames, joined, prompt_logprobs
from tradewind.server.openai.prompts import TextOrIds, encode_prompts, parse_prompts, truncated
from tradewind.server.openai.reading import heeded
from tradewind.server.openai.requests import CompletionRequest
from tradewind.server.openai.sampling import completion_sampling
from tradewind.server.openai.structured import field_of
from tradewind.server.service import Service
from tradewind.server.sse import EventStream

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer


async def completions(service: Service, request: Request) -> Response:
    """The route."""
    asked, trace, model = await enter(service, request, CompletionRequest)
    tokenizer = service.engine.tokenizer
    asked.thinking_token_budget = heeded(asked.thinking_token_budget, service.engine.tokenizer, trace)
    params = completion_sampling(asked, service.engine.defaults)
    prompts = parse_prompts(asked.prompt)
    await service.engine.compile(params, field_of(asked))
    tokens = await encode_prompts(tokenizer, prompts, asked.add_special_tokens is not False)
    room = service.context_tokens - (params.max_tokens or 1)
    job = Job(
        prompts=[truncated(prompt, asked, room) for prompt in tokens],
        params=params if asked.use_beam_search else with_samples(asked, params),
        priority=asked.priority or 0,
        timeout_s=service.timeout_s(request, asked.timeout),
        cache_salt=trace.caller.salt(asked.cache_salt),
    )
    head = AnswerHead.begin("cmpl", trace.request_id, "text_completion", model)
    search = beam_params(asked, params, asked.best_of or params.n)
    if search is not None:
        choices, found = await search_beams(service, job, search, trace, request.receive)
        shape = CompletionShape(asked, params, tokenizer, prompts, found, job, head)
        return await whole_answer(lambda: shape.whole(choices), asked.more_than_text)
    generation = Generation(service, job, trace)
    shape = CompletionShape(asked, params, tokenizer, prompts, generation, job, head)
    if asked.stream:
        return EventStream(generation, shape, service.metrics, service.limits.write_timeout_s)
    choices = await collect(generation, len(prompts) * job.params.n, request.receive)
    best = best_samples(choices, job.params.n, params.n)
    return await whole_answer(lambda: shape.whole(best), asked.more_than_text)


class CompletionShape:
    """Text completions, whole or as events."""

    def __init__(
        self,
        asked: CompletionRequest,
        params: SamplingParams,
        tokenizer: "Tokenizer",
        prompts: list[TextOrIds],
        generation: Told,
        job: Job,
        head: AnswerHead,
    ) -> None:
        self._asked = asked
        self._n = params.n
        whole = asked.truncate_prompt_tokens is None
        self._prompts = list(prompts if whole else job.prompts)  # as texts, once they have been echoed
        self._generation = generation
        self._job = job
        self._head = head
        self._tokenizer = tokenizer
        self._names = TokenNames(tokenizer, bool(asked.return_tokens_as_token_ids))
        self._frame = ChunkFrame(head, b'"text":', b"", asked.usage_wanted)
        self._plain = asked.logprobs is None and not asked.return_token_ids and not asked.usage_in_every_chunk
        self._prompt_only = bool(asked.echo) and asked.max_tokens == 0
        self._logprobs: dict[int, CompletionLogprobs] = {}
        self._encoded_prompts: dict[int, msgspec.Raw] = {}
        self._begun: set[int] = set()

    # --- one piece ---------------------------------------------------------------------------------------------------

    def whole(self, choices: list[Choice]) -> dict[str, Any]:
        """The answer in one piece."""
        answers = [encoded(self._whole_choice(index, choice)) for index, choice in enumerate(choices)]
        usage = self._final(self._generation.usage)
        return {**self._head.fields(), "choices": answers, "usage": usage_object(usage)}

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        if self._prompt_only:
            choice = Choice(finish_reason="length")
        answer: dict[str, Any] = {
            "index": index,
            "text": self._echo(index) + choice.text,
            "logprobs": self._piece_logprobs(index, choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }
        if self._asked.prompt_logprobs is not None:
            positions = self._generation.prompt_logprobs.get(index // self._n, [])
            answer["prompt_logprobs"] = prompt_logprobs(positions, self._names)
        if self._asked.return_token_ids:
            answer["prompt_token_ids"] = self._prompt_ids(index // self._n)
            answer["token_ids"] = choice.token_ids
        return answer

    # --- events ------------------------------------------------------------------------------------------------------

    def events(self, first_choice: int, deltas: list[Delta]) -> bytes:
        """See EventShape."""
        if self._plain and len(deltas) == 1 and deltas[0].finish_reason is None and not self._asked.echo:
            delta = deltas[0]  # nearly every token comes this way
            return self._frame.text(first_choice + delta.index, delta.text) if delta.text else b""
        return b"".join([self._event(first_choice + delta.index, delta) for delta in deltas])

    def _event(self, index: int, delta: Delta) -> bytes:
        first = index not in self._begun
        self._begun.add(index)
        text = self._echo(index) + delta.text if first else delta.text
        if self._plain and delta.finish_reason is None:
            return self._frame.text(index, text) if text else b""
        if self._prompt_only:
            return self._prompt_event(index) if first else b""
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": self._piece_logprobs(index, delta.logprobs or []),
            "finish_reason": delta.finish_reason,
        }
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop_reason
        if self._asked.return_token_ids:
            choice["token_ids"] = delta.token_ids
            if first:
                choice["prompt_token_ids"] = self._prompt_ids(index // self._n)
        return self._frame.choice(choice, self._generation.usage if self._asked.usage_in_every_chunk else None)

    def _prompt_event(self, index: int) -> bytes:
        logprobs = self._piece_logprobs(index, [])
        choice = {"index": index, "text": self._echo(index), "logprobs": logprobs, "finish_reason": "length"}
        return self._frame.choice(choice)

    def last_events(self, usage: Usage) -> bytes:
        """See EventShape."""
        return (self._frame.usage(self._final(usage)) if self._asked.usage_wanted else b"") + DONE

    def error_event(self, error: TradewindError) -> bytes:
        """See EventShape."""
        return error_event(error)

    # --- both --------------------------------------------------------------------------------------------------------

    def _final(self, usage: Usage) -> Usage:
        if not self._prompt_only:
            return usage
        return Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=0, cached_tokens=usage.cached_tokens)

    def _echo(self, index: int) -> str:
        if not self._asked.echo:
            return ""
        place = index // self._n
        prompt = self._prompts[place]
        if not isinstance(prompt, str):
            prompt = self._tokenizer.decode(prompt, self._asked.skip_special_tokens is not False)
            self._prompts[place] = prompt
        return prompt

    def _prompt_ids(self, place: int) -> msgspec.Raw:
        """Encoded once for all choices."""
        if place not in self._encoded_prompts:
            self._encoded_prompts[place] = encoded(self._job.prompts[place])
        return self._encoded_prompts[place]

    def _piece_logprobs(self, index: int, positions: list[Any]) -> dict[str, Any] | None:
        """The lists for the next tokens of a choice; an echoed prompt's come before its first ones."""
        if self._asked.logprobs is None:
            return None
        known = self._logprobs.get(index)
        if known is not None:
            return known.piece(positions)
        known = self._logprobs[index] = CompletionLogprobs(self._names, self._asked.logprobs)
        if not self._asked.echo:
            return known.piece(positions)
        prompt = self._job.prompts[index // self._n]
        of_prompt = self._generation.prompt_logprobs.get(index // self._n) or [None] * len(prompt)
        return joined(known.prompt_piece(prompt, of_prompt), known.piece(positions))
