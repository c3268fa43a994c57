"""The bodies of OpenAI's requests, with vLLM's extra fields. Strict: a string is not a number.

Ranges are not checked here: `tradewind.engine` does that for every kind of client. Fields that are unknown, or known
and without effect here, are kept by name in `ignored`, and the answer says so.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

TokenIds = list[int]

Prompt = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "a text, a list of texts, the token ids of one prompt, or a list of those",
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                    "minItems": 1,
                },
            ],
        }
    ),
]


class Loose(BaseModel):
    """A body whose unknown fields are kept apart."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    @property
    def unknown(self) -> dict[str, Any]:
        """Fields that no one here knows."""
        return self.__pydantic_extra__ or {}

    @property
    def ignored(self) -> list[str]:
        """The names of fields that were sent and have no effect."""
        return [name for name, value in self.unknown.items() if value is not None]


class ModelRequest(Loose):
    """What every route reads. Without a name, the model is the one that is served."""

    model: str | None = None
    request_id: str | None = None


class StreamOptions(Loose):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchemaFormat(Loose):
    """A named schema. It is always kept to, `strict` or not."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Loose):
    """`text`, `json_object` or `json_schema`."""

    type: str
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputFields(Loose):
    """vLLM's `structured_outputs`: what the answer's text must be. Exactly one of the first five."""

    json_: dict[str, Any] | bool | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool | None = None
    whitespace_pattern: str | None = None


class GenerationRequest(ModelRequest):
    """What completions and chat completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: list[str] | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
    timeout: float | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputFields | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None

    @property
    def usage_wanted(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_every_chunk(self) -> bool:
        """vLLM's continuous_usage_stats."""
        return self.usage_wanted and bool(self.stream_options and self.stream_options.continuous_usage_stats)


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt: Prompt = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None
    add_special_tokens: bool | None = None


class ContentPart(Loose):
    """A piece of a message. Only text so far."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class Message(Loose):
    """One turn. Fields that are not listed go to the chat template as they came."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None


class FunctionDefinition(Loose):
    """A function. `parameters`: the JSON Schema of its arguments; without one it takes none."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(Loose):
    """One of the tools."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Loose):
    """Which function."""

    name: str


class NamedToolChoice(Loose):
    """This function must be called."""

    type: Literal["function"] = "function"
    function: FunctionName


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None
    echo: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: str | NamedToolChoice | None = None
    parallel_tool_calls: bool | None = None


class TokenizeRequest(ModelRequest):
    """`POST /tokenize`: a text, or a conversation."""

    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(ModelRequest):
    """`POST /detokenize`."""

    tokens: TokenIds
