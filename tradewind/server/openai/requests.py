"""The bodies of OpenAI's requests, with vLLM's extra fields. Strict: a string is not a number.

Ranges are only told here, for the OpenAPI document: `tradewind.engine` checks them for every kind of client.
Fields that are unknown are kept by name in `ignored`, and the answer says so.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from tradewind.protocol.validate import (
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORDS,
    MAX_PENALTY,
    MAX_SEQUENCES,
    MAX_STOP_STRING_CHARS,
    MAX_STOP_STRINGS,
    MAX_TEMPERATURE,
    MIN_REPETITION_PENALTY,
)

Item = TypeVar("Item")

MAX_ITEMS = 10_000
MAX_TOKEN_IDS = 2**20
MAX_TOOLS = 128
FORMATS = ("text", "json_object", "json_schema")
_RESERVED = ("messages", "tools", "add_generation_prompt")  # of a template's variables
TOOL_CHOICES = ("auto", "none", "required")
TokenId = Annotated[int, Field(json_schema_extra={"minimum": 0})]
_STOP: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_STRING_CHARS}

# A list of millions of wrong entries would be as many errors, which nobody reads and which take a minute to make.
Bounded = Annotated[list[Item], Field(fail_fast=True, max_length=MAX_ITEMS)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_TOKEN_IDS)]


def _check_size(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_ITEMS:
        raise ValueError(f"at most {MAX_ITEMS} entries")
    return value


Bias = Annotated[float, Field(json_schema_extra={"minimum": -100, "maximum": 100})]
Biases = Annotated[dict[str, Bias], BeforeValidator(_check_size)]


def within(**bounds: Any) -> Any:
    """A field that may be left out, whose bounds the document tells in JSON Schema's words."""
    return Field(None, json_schema_extra=bounds)


Prompt = Annotated[
    Any,
    WithJsonSchema(
        {
            "description": "a text, a list of texts, the token ids of one prompt, or a list of those",
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
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
        """The names of fields that were sent and have no effect, `a.b` for those inside of settings."""
        names = [name for name, value in self.unknown.items() if value is not None]
        for name in sorted(self.model_fields_set):
            value = getattr(self, name, None)
            if isinstance(value, Settings):
                names += [f"{name}.{inner}" for inner in value.ignored]
        return names


class Settings(Loose):
    """A part of a body that nobody but this server reads: what is unknown in it has no effect."""


class ModelRequest(Loose):
    """What every route reads. Without a name, the model is the one that is served."""

    model: str | None = None
    request_id: str | None = None


class StreamOptions(Settings):
    """What a stream carries besides text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchemaFormat(Settings):
    """A named schema. It is always kept to, `strict` or not."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Settings):
    """`json_schema` is wanted by the type of that name."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(FORMATS)})]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputFields(Loose):
    """vLLM's `structured_outputs`: what the answer's text must be. Exactly one of the first five."""

    json_: dict[str, Any] | bool | str | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = None
    choice: Bounded[str] | None = None
    grammar: str | None = None
    disable_any_whitespace: bool | None = None
    whitespace_pattern: str | None = None


class GenerationRequest(ModelRequest):
    """What completions and chat completions share."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = within(minimum=1, maximum=MAX_SEQUENCES)
    temperature: float | None = within(minimum=0, maximum=MAX_TEMPERATURE)
    top_p: float | None = within(exclusiveMinimum=0, maximum=1)
    top_k: int | None = within(minimum=-1)
    min_p: float | None = within(minimum=0, maximum=1)
    seed: int | None = within(minimum=-(2**63), maximum=2**64 - 1)
    presence_penalty: float | None = within(minimum=-MAX_PENALTY, maximum=MAX_PENALTY)
    frequency_penalty: float | None = within(minimum=-MAX_PENALTY, maximum=MAX_PENALTY)
    repetition_penalty: float | None = within(minimum=MIN_REPETITION_PENALTY, maximum=1000)
    logit_bias: Biases | None = within(propertyNames={"pattern": "^[0-9]{1,10}$"})
    allowed_token_ids: TokenIds | None = within(minItems=1)
    bad_words: (
        Bounded[Annotated[str, Field(json_schema_extra={"pattern": "\\S", "maxLength": MAX_BAD_WORD_CHARS})]] | None
    ) = within(maxItems=MAX_BAD_WORDS)
    min_tokens: int | None = within(minimum=0)
    max_tokens: int | None = within(minimum=1)
    stop: Annotated[
        str | Bounded[str] | None,
        WithJsonSchema(
            {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOP_STRINGS}, {"type": "null"}]}
        ),
    ] = None
    stop_token_ids: TokenIds | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    prompt_logprobs: int | None = within(minimum=0)
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: int | None = within(minimum=-(2**63), maximum=2**63 - 1)
    cache_salt: str | None = None
    truncate_prompt_tokens: int | None = within(minimum=-1)
    timeout: float | None = within(exclusiveMinimum=0, maximum=86400)
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputFields | None = None
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None

    @property
    def more_than_text(self) -> bool:
        """Whether something is to be said of each token, or the prompt is to be repeated."""
        wanted = (getattr(self, name) for name in ("logprobs", "prompt_logprobs", "return_token_ids", "echo"))
        return any(value is not None and value is not False for value in wanted)

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
    logprobs: int | None = within(minimum=0)
    add_special_tokens: bool | None = None


class ContentPart(Loose):
    """A piece of a message. Only text so far."""

    type: Literal["text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class Message(Loose):
    """One turn. Fields that are not listed go to the chat template as they came."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Bounded[ContentPart] | None = None
    name: str | None = None
    tool_calls: Bounded[dict[str, Any]] | None = None
    tool_call_id: str | None = None


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


class FunctionName(Settings):
    """Which function."""

    name: str


class NamedToolChoice(Settings):
    """This function must be called."""

    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(Settings):
    """See AllowedToolsChoice."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolChoice], Field(min_length=1)]


class AllowedToolsChoice(Settings):
    """Only these of the tools may be called; with the mode `required`, one of them must be."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    messages: Annotated[Bounded[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: int | None = within(minimum=0)
    max_completion_tokens: int | None = within(minimum=1)
    echo: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: Bounded[dict[str, Any]] | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    tools: Annotated[list[ToolDefinition], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Annotated[str, Field(json_schema_extra={"enum": list(TOOL_CHOICES)})]
        | NamedToolChoice
        | AllowedToolsChoice
        | None
    ) = None
    parallel_tool_calls: bool | None = None

    @property
    def ignored(self) -> list[str]:
        """See Loose; and variables that would stand in for what a template is given anyway."""
        given = self.chat_template_kwargs or {}
        return super().ignored + [f"chat_template_kwargs.{name}" for name in _RESERVED if name in given]


class TokenizeRequest(ModelRequest):
    """`POST /tokenize`: a text, or a conversation."""

    prompt: str | None = None
    messages: Annotated[Bounded[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(ModelRequest):
    """`POST /detokenize`."""

    tokens: TokenIds
