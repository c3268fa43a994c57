"""Which sampling parameters are in range. Every entrance (HTTP, offline, client) checks here, with the same words."""

import math
from typing import Any

from tradewind.base.errors import RequestError
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams, StructuredOutputs

MAX_SEQUENCES = 128
MAX_LOGPROBS = 2**23  # of all positions of all sequences of a request together: a gigabyte of them
MAX_TEMPERATURE = 1000.0
MAX_PENALTY = 2.0
MIN_REPETITION_PENALTY = 0.001  # logits are divided by it, in float32
MAX_STOP_STRINGS = 64
MAX_STOP_STRING_CHARS = 1024
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_CHARS = 256


def validate(params: SamplingParams, vocab_size: int, max_logprobs: int) -> None:
    """Raise RequestError, naming the field and what would be right, unless every value is in range.

    Ids must be below `vocab_size`; `max_logprobs` bounds logprobs and prompt_logprobs.
    """
    _check_whole("n", params.n, 1, MAX_SEQUENCES)
    _check_number("temperature", params.temperature, 0.0, MAX_TEMPERATURE)
    _check_number("top_p", params.top_p, 0.0, 1.0, low_is_open=True)
    _check_whole("top_k", params.top_k, -1, None)
    _check_number("min_p", params.min_p, 0.0, 1.0)
    _check_number("presence_penalty", params.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_number("frequency_penalty", params.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_number("repetition_penalty", params.repetition_penalty, MIN_REPETITION_PENALTY, 1000.0)
    if params.seed is not None:
        _check_whole("seed", params.seed, -(2**63), 2**64 - 1)
    _check_lengths(params)
    for name, wanted in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        if wanted is not None:
            _check_whole(name, wanted, 0, max_logprobs)
    _check_stops(params)
    _check_bad_words(params.bad_words)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    _check_ids("allowed_token_ids", params.allowed_token_ids, vocab_size)
    if params.allowed_token_ids is not None and not params.allowed_token_ids:
        raise RequestError("allowed_token_ids must name at least one token", field="allowed_token_ids")
    _check_logit_bias(params.logit_bias, vocab_size)
    _check_structured(params.structured_outputs)
    if params.thinking_token_budget is not None:
        _check_whole("thinking_token_budget", params.thinking_token_budget, 0, None)


def validate_beams(params: BeamSearchParams, vocab_size: int, max_logprobs: int) -> None:
    """The same for a beam search, which needs the logprobs of 2 * beam_width tokens."""
    most = max_logprobs // 2
    if not _is_whole(params.beam_width) or not 1 <= params.beam_width <= most:
        message = f"a beam search's width must be from 1 to {most} (half of max_logprobs), not {params.beam_width!r}"
        raise RequestError(message, field="beam_width")
    if params.max_tokens is not None:
        _check_whole("max_tokens", params.max_tokens, 1, None)
    if params.logprobs is not None:
        _check_whole("logprobs", params.logprobs, 0, max_logprobs)
    if params.temperature not in (0, 1):
        message = "a beam search goes by the model's own probabilities: temperature may only be 0 or 1"
        raise RequestError(message, field="temperature")
    _check_number("length_penalty", params.length_penalty, -10.0, 10.0)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size)


def _check_lengths(params: SamplingParams) -> None:
    if params.max_tokens is not None:
        _check_whole("max_tokens", params.max_tokens, 1, None)
    _check_whole("min_tokens", params.min_tokens, 0, None)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        message = f"min_tokens ({params.min_tokens}) must not be above max_tokens ({params.max_tokens})"
        raise RequestError(message, field="min_tokens")


def _check_stops(params: SamplingParams) -> None:
    stops = params.stop
    if stops is None:
        return
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise RequestError(f"stop must be a list of texts, not {stops!r}", field="stop")
    if len(stops) > MAX_STOP_STRINGS:
        raise RequestError(f"stop has {len(stops)} texts; at most {MAX_STOP_STRINGS} are allowed", field="stop")
    if not all(stops):
        raise RequestError("stop must not contain an empty text", field="stop")
    longest = max(map(len, stops), default=0)
    if longest > MAX_STOP_STRING_CHARS:
        message = f"stop has a text of {longest} characters; at most {MAX_STOP_STRING_CHARS} are allowed"
        raise RequestError(message, field="stop")
    if stops and not params.detokenize:
        raise RequestError("stop needs text: leave it out, or set detokenize to true", field="stop")


def _check_bad_words(words: list[str] | None) -> None:
    if words is None:
        return
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RequestError(f"bad_words must be a list of texts, not {words!r}", field="bad_words")
    if len(words) > MAX_BAD_WORDS:
        raise RequestError(f"bad_words has {len(words)} texts; at most {MAX_BAD_WORDS} are allowed", field="bad_words")
    if not all(word.strip() for word in words):
        raise RequestError("bad_words must not contain an empty text", field="bad_words")
    longest = max(map(len, words), default=0)
    if longest > MAX_BAD_WORD_CHARS:
        message = f"bad_words has a text of {longest} characters; at most {MAX_BAD_WORD_CHARS} are allowed"
        raise RequestError(message, field="bad_words")


def _check_ids(name: str, ids: list[int] | None, vocab_size: int) -> None:
    if ids is None:
        return
    if not isinstance(ids, list):
        raise RequestError(f"{name} must be a list of token ids, not {ids!r}", field=name)
    if len(ids) > vocab_size:
        raise RequestError(f"{name} has {len(ids)} ids, more than there are tokens ({vocab_size})", field=name)
    for token in ids:
        _check_id(name, token, vocab_size)


def _check_id(name: str, token: Any, vocab_size: int) -> None:
    if not _is_whole(token) or not 0 <= token < vocab_size:
        raise RequestError(f"{name}: {token!r} is not a token id; they are 0 to {vocab_size - 1}", field=name)


def _check_logit_bias(bias: dict[int, float] | None, vocab_size: int) -> None:
    if bias is None:
        return
    if not isinstance(bias, dict):
        raise RequestError(f"logit_bias must map token ids to numbers, not {bias!r}", field="logit_bias")
    for token, value in bias.items():
        _check_id("logit_bias", token, vocab_size)
        if not _is_number(value) or not -100.0 <= value <= 100.0:
            message = f"logit_bias of token {token} must be a number from -100 to 100, not {value!r}"
            raise RequestError(message, field="logit_bias")


def _check_structured(asked: Any) -> None:
    if asked is not None and not isinstance(asked, StructuredOutputs):
        message = f"structured_outputs must be a StructuredOutputs, not {asked!r}"
        raise RequestError(message, field="structured_outputs")


def _check_number(name: str, value: Any, low: float, high: float, low_is_open: bool = False) -> None:
    above = _is_number(value) and (value > low if low_is_open else value >= low)
    if not above or value > high:
        limits = f"above {low:g} and at most {high:g}" if low_is_open else f"from {low:g} to {high:g}"
        raise RequestError(f"{name} must be a number {limits}, not {value!r}", field=name)


def _check_whole(name: str, value: Any, low: int, high: int | None) -> None:
    if not _is_whole(value) or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise RequestError(f"{name} must be a whole number {limits}, not {value!r}", field=name)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
