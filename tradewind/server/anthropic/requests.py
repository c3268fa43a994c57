"""The bodies of Anthropic's requests."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tradewind.protocol.validate import MAX_TEMPERATURE
from tradewind.server.openai.requests import MAX_TOOLS, Bounded, Loose, ModelRequest, Settings, within

Blocks = Bounded[dict[str, Any]]


class Turn(Loose):
    """One message. The blocks of its content are looked at one by one."""

    role: Literal["user", "assistant"]
    content: str | Blocks


class CustomTool(Loose):
    """A function that the client runs."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: dict[str, Any]


class ToolChoice(Settings):
    """Who decides whether a tool is used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Settings):
    """Whether the model reasons, as far as its template can be told, and at most how much."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None


class OutputFormat(Settings):
    """The JSON Schema that the answer's text is kept to."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Settings):
    """What the answer is like. `effort` goes to the template as `reasoning_effort`."""

    format: OutputFormat | None = None
    effort: str | None = None


class CountRequest(ModelRequest):
    """`POST /v1/messages/count_tokens`."""

    messages: Annotated[Bounded[Turn], Field(min_length=1)]
    system: str | Blocks | None = None
    tools: Annotated[list[CustomTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountRequest):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, Field(json_schema_extra={"minimum": 1})]
    stop_sequences: Bounded[Annotated[str, Field(json_schema_extra={"minLength": 1})]] | None = None
    temperature: float | None = within(minimum=0, maximum=MAX_TEMPERATURE)
    top_p: float | None = within(exclusiveMinimum=0, maximum=1)
    top_k: int | None = within(minimum=-1)
    stream: bool | None = None
