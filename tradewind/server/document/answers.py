"""What the routes answer with, as types, for the OpenAPI document. Nothing is built from them: see the shapes for that.

A field that may be left out is `Unset`; one that is always there, but may have no value, is nullable.
"""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import RowState

FinishReason = Literal["stop", "length", "tool_calls"]


class Answer(Struct, forbid_unknown_fields=True, kw_only=True):
    """An object with these fields and no others."""


# --- errors ----------------------------------------------------------------------------------------------------------


class ErrorDetail(Answer):
    """`param`: the field of the request that is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """OpenAI's shape of an error."""

    error: ErrorDetail


class MessageErrorDetail(Answer):
    """`type`: one of Anthropic's kinds."""

    type: str
    message: str


class MessageError(Answer):
    """Anthropic's shape of an error."""

    type: Literal["error"]
    error: MessageErrorDetail


# --- completions -----------------------------------------------------------------------------------------------------


class PromptTokensDetails(Answer):
    """`cached_tokens`: what the prefix cache spared."""

    cached_tokens: int


class CompletionTokensDetails(Answer):
    """`reasoning_tokens`: without the marks around them."""

    reasoning_tokens: int


class Usage(Answer):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class PromptLogprob(Answer):
    """One of the likely tokens at a position of the prompt."""

    logprob: float
    rank: int
    decoded_token: str


class TextLogprobs(Answer):
    """Parallel lists, one entry for each token; null where nothing comes before a token."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class TextChoice(Answer):
    """One continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class Completion(Answer):
    """A whole answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(Answer):
    """What is new of one continuation."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | UnsetType | None = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class CompletionChunk(Answer):
    """The data of one event of a stream. With `stream_options.include_usage` the last one has usage and no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: Usage | UnsetType | None = UNSET


# --- chat completions ------------------------------------------------------------------------------------------------


class TopLogprob(Answer):
    """One of the likely tokens. `bytes` are the token's own, also where they are no whole character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that was said."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """One entry for each token of the answer."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Answer):
    """`arguments` is JSON."""

    name: str
    arguments: str


class ToolCall(Answer):
    """A function that the client is to run."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Answer):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | UnsetType | None = UNSET
    reasoning: str | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(Answer):
    """One of `n` answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Answer):
    """A whole answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class FunctionDelta(Answer):
    """More of a call's arguments; its name comes first."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallDelta(Answer):
    """More of a call; the first piece has its id."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Answer):
    """What is new of a message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET


class ChatChunkChoice(Answer):
    """What is new of one of `n` answers."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletionChunk(Answer):
    """The data of one event of a stream. With `stream_options.include_usage` the last one has usage and no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | UnsetType | None = UNSET


# --- messages --------------------------------------------------------------------------------------------------------


class TextBlock(Answer, tag_field="type", tag="text"):
    """Text."""

    text: str


class ThinkingBlock(Answer, tag_field="type", tag="thinking"):
    """Reasoning. It is not signed."""

    thinking: str
    signature: str


class ToolUseBlock(Answer, tag_field="type", tag="tool_use"):
    """A tool that the client is to run."""

    id: str
    name: str
    input: dict[str, Any]


class MessageUsage(Answer):
    """Tokens of one request; those that the prefix cache spared are counted apart."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageAnswer(Answer):
    """A whole answer of `/v1/messages`; as a stream it comes in Anthropic's events."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage


class MessageEvent(Struct):
    """The data of one event of a stream, in Anthropic's kinds: `message_start`, `content_block_delta` and so on."""

    type: str


class MessageTokens(Answer):
    """The length of a conversation."""

    input_tokens: int


# --- responses -------------------------------------------------------------------------------------------------------

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]


class OutputText(Answer, tag_field="type", tag="output_text"):
    """Text of a message."""

    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class ReasoningText(Answer, tag_field="type", tag="reasoning_text"):
    """Text of a reasoning item."""

    text: str


class MessageItem(Answer, tag_field="type", tag="message"):
    """What the model says."""

    id: str
    role: Literal["assistant"]
    content: list[OutputText]
    status: ResponseStatus


class ReasoningItem(Answer, tag_field="type", tag="reasoning"):
    """What the model says to itself."""

    id: str
    summary: list[Any]
    content: list[ReasoningText]
    status: ResponseStatus


class CallItem(Answer, tag_field="type", tag="function_call"):
    """A function that the client is to run."""

    id: str
    call_id: str
    name: str
    arguments: str
    status: ResponseStatus


class CachedTokens(Answer):
    """Of the input, what the prefix cache spared."""

    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Answer):
    """Of the output, what was reasoning."""

    reasoning_tokens: int


class ResponseUsage(Answer):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseFault(Answer):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(Answer):
    """A response: its items, and what was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    background: bool
    error: ResponseFault | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[MessageItem | ReasoningItem | CallItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: str
    usage: ResponseUsage | UnsetType = UNSET
    user: str | UnsetType = UNSET


class ResponseEvent(Struct):
    """The data of one event of a stream, in OpenAI's kinds: `response.created`, `response.completed` and so on."""

    type: str
    sequence_number: int


class DeletedResponse(Answer):
    """It is forgotten."""

    id: str
    object: Literal["response"]
    deleted: bool


class InputItems(Answer):
    """A page of a conversation."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


# --- models and tokens -----------------------------------------------------------------------------------------------


class Model(Answer):
    """A name of the model. `root`: its first name. `max_model_len`: tokens of a prompt and its answer together."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int


class ModelList(Answer):
    """Every name."""

    object: Literal["list"]
    data: list[Model]


class Tokens(Answer):
    """A text as token ids; `token_strs` if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(Answer):
    """Token ids as text."""

    prompt: str


# --- the server itself -----------------------------------------------------------------------------------------------


class Index(Answer):
    """What there is."""

    name: str
    version: str
    status: str
    models: list[str]
    routes: list[str]


class Health(Answer):
    """`message`: why it is not well."""

    status: str
    message: str | UnsetType = UNSET


class Readiness(Answer):
    """Whether new requests are taken."""

    ready: bool
    status: str


class Version(Answer):
    """Of this software."""

    version: str


class Load(Answer):
    """How much there is to do."""

    server_load: int


class InputTokens(Answer):
    """How long a response's input is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class EngineFacts(Answer):
    """What the engine found when it started."""

    device: str
    dtype: str
    max_model_len: int
    max_running: int
    step_tokens: int
    num_blocks: int
    block_tokens: int
    weights_bytes: int
    kv_bytes: int


class Row(Answer):
    """One sequence. `request`: the X-Request-Id, if it was the caller's own."""

    request: str | None
    request_id: int
    state: RowState
    slot: int | None
    age_s: float
    prompt_tokens: int
    computed_tokens: int
    output_tokens: int
    max_tokens: int
    blocks: int
    preemptions: int
    priority: int


class Blocks(Answer):
    """Runs of `[owner, cells]`; a cell is `cell_blocks` blocks."""

    cell_blocks: int
    runs: list[tuple[int, int]]


class HistogramCounts(Answer):
    """Upper bounds in seconds, and how many values each took; the last of `counts` has no bound."""

    bounds: list[float]
    counts: list[int]
    sum: float


class Latency(Answer):
    """Over all requests so far."""

    time_to_first_token: HistogramCounts
    inter_token: HistogramCounts
    queue: HistogramCounts
    e2e: HistogramCounts


class EngineState(Answer):
    """The engine now."""

    status: str
    message: str | None
    version: str
    model: str
    time_s: float
    restarts: int
    engine: EngineFacts | None
    stats: EngineStats
    rows: list[Row]
    blocks: Blocks | None
    latency: Latency


class SequenceTimeline(Answer):
    """Seconds from the request's arrival; null: not yet, or never. `steps`: `[time, sequences in that step]`."""

    index: int
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    submitted: float
    admitted: float | None
    first_token: float | None
    finished: float | None
    steps: list[tuple[float, int]]


class Timeline(Answer):
    """How a request went."""

    request_id: str
    sequences: list[SequenceTimeline]
