"""OpenAI's and vLLM's request fields -> SamplingParams, over the model's own defaults."""

from typing import TYPE_CHECKING, Any

from tradewind.base.errors import RequestError
from tradewind.protocol.sampling import SamplingParams
from tradewind.server.openai.requests import ChatRequest, CompletionRequest, GenerationRequest
from tradewind.server.openai.structured import structured_outputs

if TYPE_CHECKING:
    from tradewind.text.generation import GenerationDefaults

_SAME_NAMES = (
    *("n", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "allowed_token_ids", "bad_words", "min_tokens", "stop_token_ids", "ignore_eos"),
    *("include_stop_str_in_output", "skip_special_tokens", "prompt_logprobs"),
    "thinking_token_budget",
)


# Refused rather than ignored: an answer made without them would not be what was asked for.
_REFUSED = {
    "guided_json": "guided decoding under this name (see structured_outputs)",
    "guided_regex": "guided decoding under this name (see structured_outputs)",
    "guided_choice": "guided decoding under this name (see structured_outputs)",
    "guided_grammar": "guided decoding under this name (see structured_outputs)",
    "functions": "function calling under its old name (see tools)",
    "function_call": "function calling under its old name (see tool_choice)",
    "chat_template": "a chat template of the request's own (the server has one, see --chat-template)",
    "audio": "audio",
    "web_search_options": "web search",
    "prompt_embeds": "prompt embeddings",
}


def completion_sampling(request: CompletionRequest, defaults: "GenerationDefaults") -> SamplingParams:
    """Raises RequestError for what cannot be served. Ranges are checked by the engine's client."""
    _check_common(request)
    if request.suffix is not None:
        raise RequestError("suffix (fill in the middle) is not supported; leave it out", field="suffix")
    values = {**defaults.sampling(), **_common(request)}
    if request.max_tokens is not None:
        values["max_tokens"] = request.max_tokens
    if request.logprobs is not None:
        values["logprobs"] = request.logprobs
    if request.echo:
        _allow_prompt_alone(values)
        if request.logprobs is not None and request.prompt_logprobs is None:
            values["prompt_logprobs"] = request.logprobs
    return SamplingParams(**values)


def _allow_prompt_alone(values: dict[str, Any]) -> None:
    """`echo` with max_tokens=0 asks for the prompt only; the engine always says one token, which is then dropped."""
    if values.get("max_tokens") == 0:
        values["max_tokens"] = 1
        values["min_tokens"] = 0


def chat_sampling(request: ChatRequest, defaults: "GenerationDefaults") -> SamplingParams:
    """The same for chat. Without a limit of its own, a chat may go on to the end of the context."""
    _check_common(request)
    if request.top_logprobs is not None and not request.logprobs:
        raise RequestError("top_logprobs needs logprobs set to true", field="top_logprobs")
    values = {"max_tokens": defaults.max_new_tokens, **defaults.sampling(), **_common(request)}
    for limit in (request.max_tokens, request.max_completion_tokens):
        if limit is not None:
            values["max_tokens"] = limit
    if request.logprobs:
        values["logprobs"] = request.top_logprobs or 0
    return SamplingParams(**values)


def _common(request: GenerationRequest) -> dict[str, Any]:
    given = {name: getattr(request, name) for name in _SAME_NAMES}
    values = {name: value for name, value in given.items() if value is not None}
    if request.stop is not None:
        values["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.logit_bias is not None:
        values["logit_bias"] = {_token_id(key): bias for key, bias in request.logit_bias.items()}
    values["structured_outputs"] = structured_outputs(request)
    return values


def _token_id(key: str) -> int:
    if not key.isascii() or not key.isdigit() or len(key) > 10:
        raise RequestError(f"logit_bias: {key[:40]!r} is not a token id", field="logit_bias")
    return int(key)


def _check_common(request: GenerationRequest) -> None:
    for name, what in _REFUSED.items():
        if request.unknown.get(name):
            raise RequestError(f"{what} is not supported yet; leave {name} out", field=name)
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options needs stream set to true", field="stream_options")
    if request.stream and request.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs is not available in a stream", field="prompt_logprobs")
    modalities = request.unknown.get("modalities")
    if modalities not in (None, ["text"]):
        raise RequestError("modalities may only be ['text']", field="modalities")
