"""More than is answered: beam search, and `best_of` samples of which the best are given."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.types import Receive

from tradewind.base.errors import DeadlineExceeded, RequestError
from tradewind.engine.beams import step_params
from tradewind.engine.client import Usage
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams
from tradewind.protocol.validate import MAX_SEQUENCES
from tradewind.server.generation import Choice, Generation, Job, collect
from tradewind.server.openai.requests import CompletionRequest, GenerationRequest
from tradewind.server.service import Service
from tradewind.server.trace import Trace

if TYPE_CHECKING:
    from tradewind.engine.beams import BeamSearch
    from tradewind.engine.client import AsyncEngine

# What changes the probabilities, or looks at the text, has no place in a search; these values change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "temperature": (0, 1),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "prompt_logprobs": (),
    "thinking_token_budget": (),
    **dict.fromkeys(("logit_bias", "allowed_token_ids", "bad_words", "stop"), ({}, [])),
}


@dataclass(slots=True)
class Found:
    """What searches cost. See Told."""

    usage: Usage
    prompt_logprobs: dict[int, list[TokenLogprobs | None]] = field(default_factory=dict)


# --- beam search -----------------------------------------------------------------------------------------------------


def beam_params(asked: GenerationRequest, params: SamplingParams, width: int) -> BeamSearchParams | None:
    """The search that a request asks for; None if it asks for none. Raises RequestError for what does not go with it.

    `params`: what the request means without one.
    """
    if not asked.use_beam_search:
        for name in ("length_penalty", "early_stopping"):
            if getattr(asked, name) is not None:
                raise RequestError(f"{name} needs use_beam_search set to true", field=name)
        return None
    for name, neutral in _NEUTRAL.items():
        value = getattr(asked, name)
        if value is not None and value not in neutral:
            raise RequestError(f"{name} does not go with use_beam_search; leave one of them out", field=name)
    if params.structured_outputs is not None:
        given = [name for name in ("structured_outputs", "response_format") if getattr(asked, name) is not None]
        name = (*given, "tool_choice")[0]
        raise RequestError(f"{name} does not go with use_beam_search; leave one of them out", field=name)
    if params.prompt_logprobs is not None:
        raise RequestError("echo with logprobs does not go with use_beam_search", field="echo")
    if width < params.n:
        raise RequestError(f"best_of must be at least n ({params.n}), not {width}", field="best_of")
    return BeamSearchParams(
        beam_width=width,
        max_tokens=params.max_tokens,
        ignore_eos=params.ignore_eos,
        length_penalty=1.0 if asked.length_penalty is None else asked.length_penalty,
        early_stopping=bool(asked.early_stopping),
        stop_token_ids=params.stop_token_ids,
        include_stop_str_in_output=params.include_stop_str_in_output,
        skip_special_tokens=params.skip_special_tokens,
        logprobs=params.logprobs,
    )


async def search_beams(
    service: Service, job: Job, params: BeamSearchParams, trace: Trace, receive: Receive
) -> tuple[list[Choice], Found]:
    """The `job.params.n` best continuations of each prompt, as choices in order, and what they cost.

    Every step is one job, a sequence for each beginning; the prefix cache spares what they have in common.
    """
    engine = service.engine
    searches = [_begin(engine, prompt, params) for prompt in job.prompts]
    cost = _Cost(sum(map(len, job.prompts)))
    if trace.ticket is not None:
        most = len(searches) * params.beam_width * (params.max_tokens or 0)
        trace.ticket.reserve(cost.prompt_tokens + most, lambda: cost.prompt_tokens + cost.step_tokens)
    service.metrics.on_asked(job.params)
    with engine.work():
        await _run(service, job, searches, cost, trace, receive)
    found: list[Choice] = []
    for prompt, search in zip(job.prompts, searches, strict=True):
        for delta in engine.end_search(prompt, search)[: job.params.n]:
            found.append(Choice(text=delta.text))
            found[-1].extend(delta)
    usage = cost.usage(sum(len(choice.token_ids) for choice in found))
    trace.note_usage(usage)
    return found, Found(usage)


async def _run(
    service: Service, job: Job, searches: "list[BeamSearch]", cost: "_Cost", trace: Trace, receive: Receive
) -> None:
    """Step by step, until all searches are over."""
    ends_s = None if job.timeout_s is None else time.monotonic() + job.timeout_s
    while waiting := [(prompt, search) for prompt, search in zip(job.prompts, searches, strict=True) if search.live]:
        step = replace(
            job,
            prompts=[prompt + beam.tokens for prompt, search in waiting for beam in search.live],
            params=step_params(searches[0].params),
            timeout_s=None if ends_s is None else _left_s(ends_s, job),
            is_part=True,
        )
        generation = Generation(service, step, trace)
        choices = await collect(generation, len(step.prompts), receive)
        cost.add(generation.usage)
        _advance([search for _, search in waiting], iter(choices))


@dataclass(slots=True)
class _Cost:
    """What a search has taken so far. A step's token is one, whatever had to be computed for it."""

    prompt_tokens: int
    step_tokens: int = 0
    cached_tokens: int | None = None  # of the prompts, in the first step

    def add(self, step: Usage) -> None:
        self.step_tokens += step.completion_tokens
        if self.cached_tokens is None:
            self.cached_tokens = step.cached_tokens

    def usage(self, answered_tokens: int) -> Usage:
        """As the answer says it."""
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=answered_tokens,
            cached_tokens=self.cached_tokens or 0,
        )


def _begin(engine: "AsyncEngine", prompt: list[int], params: BeamSearchParams) -> "BeamSearch":
    try:
        return engine.begin_search(prompt, params)
    except RequestError as error:
        if error.field == "beam_width":  # as it is called offline
            error.field = "n"
        raise


def _advance(searches: "list[BeamSearch]", choices: Iterator[Choice]) -> None:
    for search in searches:
        search.advance([choice.logprobs[0] for choice in islice(choices, len(search.live))])


def _left_s(ends_s: float, job: Job) -> float:
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded(f"the request's deadline ({job.timeout_s:g} s) passed before it was done")
    return left_s


# --- best_of ---------------------------------------------------------------------------------------------------------


def with_samples(asked: CompletionRequest, params: SamplingParams) -> SamplingParams:
    """`params` for `best_of` samples, with what it takes to rank them. Raises RequestError for what does not go."""
    if asked.best_of is None or asked.best_of == params.n:
        return params
    if asked.best_of > MAX_SEQUENCES:
        raise RequestError(f"best_of must be at most {MAX_SEQUENCES}, not {asked.best_of}", field="best_of")
    if asked.best_of < params.n:
        raise RequestError(f"best_of must be at least n ({params.n}), not {asked.best_of}", field="best_of")
    if asked.stream:
        raise RequestError(
            "best_of above n cannot be streamed: which samples are best shows at the end", field="best_of"
        )
    return msgspec.structs.replace(params, n=asked.best_of, logprobs=params.logprobs or 0)


def best_samples(choices: list[Choice], samples: int, n: int) -> list[Choice]:
    """Of each prompt's `samples` the `n` whose tokens have the highest log probability on average.

    Where all are wanted, they stay in the order of their seeds, as in a stream.
    """
    if samples == n:
        return choices
    groups = [choices[first : first + samples] for first in range(0, len(choices), samples)]
    return [choice for group in groups for choice in sorted(group, key=_mean_logprob, reverse=True)[:n]]


def _mean_logprob(choice: Choice) -> float:
    return sum(position.logprobs[0] for position in choice.logprobs) / max(1, len(choice.logprobs))
