"""What the answers of a model are made of, as its chat template tells: reasoning between marks, and tool calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tradewind.text.tool_calls import ContentReader, Reader, ReasoningReader, ToolReader
from tradewind.text.tool_formats import ToolFormat, format_of, knows_tools

_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """`reasoning`: the marks around the model's reasoning, if it has any. `knows_tools`: the template writes them."""

    tools: ToolFormat
    knows_tools: bool
    reasoning: tuple[str, str] | None

    @classmethod
    def of(cls, template: str) -> "AnswerFormat":
        """From the source of a chat template."""
        reasoning = next((marks for marks in _MARKS if marks[1] in template), None)
        return cls(format_of(template), knows_tools(template), reasoning)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one request are taken apart.

    `reasoning`: the marks, if the model may reason in this answer; `reasons`: it has begun to, in the prompt.
    `tools`: the functions that may be called, name -> schema of the arguments. `forced`: the answer is calls only.
    """

    format: AnswerFormat
    reasoning: tuple[str, str] | None = None
    reasons: bool = False
    tools: Mapping[str, Any] | None = None
    forced: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether all of an answer is content."""
        return self.reasoning is None and self.tools is None

    def begin(self) -> Reader:
        """A reader for one answer."""
        rest: Reader = ContentReader()
        if self.tools is not None:
            rest = ToolReader(self.format.tools, self.tools, is_open=self.forced)
        if self.reasoning is None:
            return rest
        return ReasoningReader(*self.reasoning, is_open=self.reasons, rest=rest)
