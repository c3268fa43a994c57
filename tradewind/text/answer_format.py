"""What the answers of a model are made of, as its chat template tells: reasoning between marks, and tool calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tradewind.text.harmony import CHANNEL, CONSTRAIN, END, MESSAGE, START, HarmonyReader
from tradewind.text.tool_calls import Content, ContentReader, Reader, ReasoningReader, ToolReader
from tradewind.text.tool_formats import BodyKind, ToolFormat, format_of, knows_tools

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer

_TAIL_TOKENS = 16  # of a prompt: enough to see how it opens the answer
_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_HARMONY_MARKS = (f"{CHANNEL}analysis{MESSAGE}", END)


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """`reasoning`: the marks around the model's reasoning, if it has any. `knows_tools`: the template writes them."""

    tools: ToolFormat
    knows_tools: bool
    reasoning: tuple[str, str] | None

    @classmethod
    def of(cls, template: str) -> "AnswerFormat":
        """From the source of a chat template."""
        tools = format_of(template)
        if tools.body is BodyKind.HARMONY:
            return cls(tools, True, _HARMONY_MARKS)
        reasoning = next((marks for marks in _MARKS if marks[1] in template), None)
        return cls(tools, knows_tools(template), reasoning)

    @property
    def is_harmony(self) -> bool:
        """Whether answers are made of messages with headers."""
        return self.tools.body is BodyKind.HARMONY

    def reasoning_after(self, prompt: Sequence[int], tokenizer: "Tokenizer") -> tuple[tuple[str, str] | None, bool]:
        """The marks, if the model may reason in an answer to `prompt`, and whether it has begun to in there."""
        if self.reasoning is None or self.is_harmony:
            return self.reasoning, False
        opening, closing = self.reasoning
        tail = tokenizer.decode(prompt[-_TAIL_TOKENS:], skip_special_tokens=False).rstrip()
        if tail.endswith(closing):
            return None, False
        return self.reasoning, tail.endswith(opening) or self._is_left_open(prompt, tokenizer)

    def _is_left_open(self, prompt: Sequence[int], tokenizer: "Tokenizer") -> bool:
        """Whether it ends within reasoning, as a message does that is to be continued.

        What a user writes of marks does not count where the template puts a special token before the answer.
        """
        around = self.reasoning_ids(tokenizer)
        if around is None:
            return False
        ends = {*around, *tokenizer.special_ids}
        return next((token for token in reversed(prompt) if token in ends), None) == around[0]

    def reasoning_ids(self, tokenizer: "Tokenizer") -> tuple[int, int] | None:
        """The marks around a model's reasoning, if it has any and they are tokens of their own."""
        if self.reasoning is None or self.is_harmony:
            return None
        opening, closing = map(tokenizer.id_of, self.reasoning)
        return None if opening is None or closing is None else (opening, closing)

    def marks(self, with_tools: bool) -> tuple[str, ...]:
        """What must not be skipped in the text, where it is a special token."""
        if self.is_harmony:
            return (START, CHANNEL, MESSAGE, CONSTRAIN, END)
        return (*(self.reasoning or ()), *((self.tools.opening,) if with_tools and self.tools.is_special else ()))


@dataclass(frozen=True, slots=True)
class Reading:
    """How the answers to one request are taken apart.

    `reasoning`: the marks, if the model may reason in this answer; `reasons`: it has begun to, in the prompt.
    `tools`: the functions that may be called, name -> schema of the arguments. `forced`: the answer is calls only.
    `around`: the marks as tokens, if they are tokens of their own.
    """

    format: AnswerFormat
    reasoning: tuple[str, str] | None = None
    reasons: bool = False
    tools: Mapping[str, Any] | None = None
    forced: bool = False
    around: tuple[int, int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all of an answer is content."""
        return self.reasoning is None and self.tools is None and not self.format.is_harmony

    def content_of(self, text: str) -> str:
        """All of a whole answer that is not reasoning, as it was written: no call is taken out of it."""
        reader = replace(self, tools=None if self.tools is None else {}, forced=False).begin()
        return "".join(piece.text for piece in (*reader.push(text), *reader.finish()) if isinstance(piece, Content))

    def count(self) -> "ReasoningCount | None":
        """A count for one answer; None where tokens do not tell."""
        return None if self.reasoning is None or self.around is None else ReasoningCount(self.around, self.reasons)

    def begin(self) -> Reader:
        """A reader for one answer."""
        if self.format.is_harmony:
            return HarmonyReader(self.tools or {})
        rest: Reader = ContentReader()
        if self.tools is not None:
            rest = ToolReader(self.format.tools, self.tools, is_open=self.forced)
        if self.reasoning is None:
            return rest
        return ReasoningReader(*self.reasoning, is_open=self.reasons, rest=rest)


class ReasoningCount:
    """How many tokens of one answer are reasoning, not counting the marks around it."""

    def __init__(self, around: tuple[int, int], has_begun: bool) -> None:
        """`around`: the marks. `has_begun`: in the prompt."""
        self.tokens = 0
        self._opening, self._closing = around
        self._may_begin, self._reasons = not has_begun, has_begun

    def take(self, tokens: Sequence[int]) -> None:
        """Take in more of the answer."""
        for token in tokens if self._may_begin or self._reasons else ():
            if self._reasons:
                self._reasons = token != self._closing
                self.tokens += self._reasons
            elif self._may_begin:
                self._reasons, self._may_begin = token == self._opening, False
