"""The bodies of Anthropic's requests."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tradewind.server.openai.requests import Loose, ModelRequest

Blocks = list[dict[str, Any]]


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


class ToolChoice(Loose):
    """Who decides whether a tool is used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Loose):
    """Whether the model reasons, as far as its template can be told."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class CountRequest(ModelRequest):
    """`POST /v1/messages/count_tokens`."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | Blocks | None = None
    tools: list[CustomTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """`POST /v1/messages`."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
