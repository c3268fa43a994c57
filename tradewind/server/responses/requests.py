"""The body of `POST /v1/responses`, with those of vLLM's extra fields that mean something here."""

from typing import Annotated, Any, Literal

from pydantic import Field

from tradewind.server.openai.requests import MAX_TOOLS, Bounded, Loose, ModelRequest

Items = Bounded[dict[str, Any]]

LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
_NO_EFFECT = ("user", "safety_identifier", "prompt_cache_key", "max_tool_calls")
_REFUSED = {
    "conversation": "conversations are not kept here; send previous_response_id, or the items themselves",
    "prompt": "stored prompts are not supported; send instructions and input",
    "context_management": "context_management is not supported; see truncation",
}


class FunctionTool(Loose):
    """A function that the client runs."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(Loose):
    """This function must be called."""

    type: Literal["function"]
    name: str


class AllowedToolsChoice(Loose):
    """Only these of the tools may be called; with the mode `required`, one of them must be."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1, max_length=MAX_TOOLS)]


class TextFormat(Loose):
    """What the text must be. A schema is always kept to, `strict` or not."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(Loose):
    """How the text is to be."""

    format: TextFormat | None = None


class ReasoningConfig(Loose):
    """How much the model is to reason, as far as its template can be told."""

    effort: str | None = None


class ResponsesRequest(ModelRequest):
    """`POST /v1/responses`."""

    input: str | Items | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    store: bool | None = None
    background: bool | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | AllowedToolsChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: Bounded[_INCLUDABLE] | None = None
    top_logprobs: int | None = None
    max_output_tokens: int | None = None
    truncation: Literal["auto", "disabled"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        Field(max_length=16),
    ] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # vLLM's
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | Bounded[str] | None = None
    ignore_eos: bool | None = None
    thinking_token_budget: Annotated[int, Field(ge=0)] | None = None
    priority: int | None = None
    cache_salt: str | None = None
    timeout: float | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def ignored(self) -> list[str]:
        """See Loose; those inside of text and reasoning by their path."""
        names = [*super().ignored, *(name for name in _NO_EFFECT if getattr(self, name) is not None)]
        for name, part in (("text", self.text), ("reasoning", self.reasoning)):
            names += [f"{name}.{inner}" for inner in (part.ignored if part is not None else ())]
        if self.include is not None and "reasoning.encrypted_content" in self.include:
            names.append("include")
        return names

    @property
    def refused(self) -> tuple[str, str] | None:
        """A field that cannot be served, and why."""
        for name, why in _REFUSED.items():
            if getattr(self, name, None) or self.unknown.get(name):
                return name, why
        if self.background and self.store is False:
            return "store", "a response in the background has to be stored, to be asked for later; leave store out"
        return None

    @property
    def logprobs_wanted(self) -> bool:
        """Whether the answer's text comes with its tokens' probabilities."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())
