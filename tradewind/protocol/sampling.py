"""How a request's tokens are chosen and when it ends."""

from typing import Any

import msgspec


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the whole text of an answer must be; names and meanings are vLLM's. Exactly one of the first five is set.

    `json`: a JSON Schema (draft 2020-12), as an object or as JSON text. `json_object`: any JSON object. `regex` matches
    the whole text. `choice`: one of these texts. `grammar`: Lark's syntax as llguidance reads it, or GBNF.
    """

    json: dict[str, Any] | bool | str | None = None
    json_object: bool = False
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool = False  # JSON without any space between its parts
    whitespace_pattern: str | None = None  # regex: the space that JSON may have between its parts
    # A model's reasoning is free: all this holds after its last token only. With `reasoning_begin`, the answer may
    # begin with that token, and else all this holds from the beginning; without, the reasoning has begun already.
    reasoning_begin: int | None = None
    reasoning_end: int | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sampling part of a request; names and meanings are vLLM's and OpenAI's.

    Order of application to a row's logits: the grammar of structured_outputs, allowed_token_ids, logit_bias, bad_words
    and min_tokens masks, repetition / presence / frequency penalties, temperature, min_p, top_k, top_p. Logprobs are of
    the raw logits.
    `validate()` (tradewind.protocol.validate) says which values are in range.
    """

    n: int = 1
    temperature: float = 1.0  # 0 means greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 or -1: no limit
    min_p: float = 0.0
    seed: int | None = None  # None: a random one is drawn when the request is accepted
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    min_tokens: int = 0
    max_tokens: int | None = 16  # None: as many as the context allows
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    logprobs: int | None = None  # alternatives per sampled token; 0: only the sampled one
    prompt_logprobs: int | None = None
    detokenize: bool = True
    structured_outputs: StructuredOutputs | None = None
    # The most tokens of a model's reasoning, without the marks around it: after so many it is ended, and the answer
    # follows. What of it the prompt has already does not count.
    thinking_token_budget: int | None = None


class BeamSearchParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How sequences are searched for; names are vLLM's.

    The search ranks by the model's own probabilities: `temperature` may only be 0 or 1, which mean the same here.
    `validate_beams()` (tradewind.protocol.validate) says which values are in range.
    """

    beam_width: int
    max_tokens: int | None = 16  # None: as many as the context allows
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0  # above 0 favours longer sequences, below 0 shorter ones
    early_stopping: bool = False  # end with the first beam_width ends, even if something better could follow
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False  # whether the text has the token that ended it
    skip_special_tokens: bool = True
    logprobs: int | None = None  # alternatives per token
