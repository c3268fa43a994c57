"""The text of an answer, as it comes, taken apart: reasoning, content, and tool calls with their arguments.

What looks like a call and turns out to be none is content, as it was written. A call is given out as soon as its
arguments begin, and they as they come: so the arguments of a call that breaks off later are what was written of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tradewind.text.call_bodies import FUNCTION, Body, JsonBody, NamedBody, XmlBody
from tradewind.text.tool_formats import BodyKind, ToolFormat


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins: the index-th of the answer."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments: a piece of JSON text."""

    index: int
    text: str


Piece = Content | Reasoning | CallStart | CallArguments


class Reader(Protocol):
    """One stage on the way from text to pieces."""

    def push(self, text: str) -> list[Piece]:
        """Take more text."""
        ...

    def finish(self) -> list[Piece]:
        """The text has ended: what was held back."""
        ...


class ReasoningReader:
    """Splits off what stands between `opening` and `closing` at the beginning of an answer, and hands on the rest."""

    def __init__(self, opening: str, closing: str, *, is_open: bool, rest: Reader) -> None:
        """`is_open`: the prompt has the opening mark already."""
        self._opening, self._closing = opening, closing
        self._rest = rest
        self._held = ""
        self._stage = "reasoning" if is_open else "start"

    def push(self, text: str) -> list[Piece]:
        """See Reader."""
        if self._stage == "gap":
            text = text.lstrip("\n")
            self._stage = "rest" if text else "gap"
        if self._stage in ("gap", "rest"):
            return self._rest.push(text) if text else []
        self._held += text
        if self._stage == "start" and not self._begin():
            return []
        if self._stage == "rest":
            held, self._held = self._held, ""
            return self._rest.push(held)
        return self._reason()

    def _begin(self) -> bool:
        """Whether it is settled what the answer begins with."""
        seen = self._held.lstrip()
        if seen.startswith(self._opening):
            self._held = seen[len(self._opening) :]
            self._stage = "reasoning"
        elif not self._opening.startswith(seen):
            self._stage = "rest"
        return self._stage != "start"

    def _reason(self) -> list[Piece]:
        before, found, after = self._held.partition(self._closing)
        if found:
            self._stage, self._held = "gap", ""
            pieces: list[Piece] = [Reasoning(before)] if before else []
            return pieces + self.push(after)
        keep = overlap(self._held, self._closing)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return [Reasoning(said)] if said else []

    def finish(self) -> list[Piece]:
        """See Reader."""
        held, self._held = self._held, ""
        if self._stage == "reasoning":
            return [Reasoning(held)] if held else []
        return (self._rest.push(held) if held else []) + self._rest.finish()


class ContentReader:
    """All of it is content."""

    def push(self, text: str) -> list[Piece]:
        """See Reader."""
        return [Content(text)] if text else []

    def finish(self) -> list[Piece]:
        """See Reader."""
        return []


class SteppedReader(ABC):
    """A reader that holds text until it is settled what it is, step by step."""

    def __init__(self) -> None:
        self._held = ""  # not settled yet
        self._pieces: list[Piece] = []

    def push(self, text: str) -> list[Piece]:
        """See Reader."""
        self._held += text
        while self._held and self._step():
            pass
        return self._take()

    def finish(self) -> list[Piece]:
        """See Reader."""
        held, self._held = self._held, ""
        self._end(held)
        return self._take()

    @abstractmethod
    def _step(self) -> bool:
        """Settle some of what is held; False when that needs more text."""

    @abstractmethod
    def _end(self, held: str) -> None:
        """No more text comes: settle `held`."""

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Content(text))

    def _take(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces


class ToolReader(SteppedReader):
    """Finds tool calls of one format. Only functions of `tools` (name -> schema of the arguments) can be called."""

    def __init__(self, tool_format: ToolFormat, tools: Mapping[str, Any], *, is_open: bool = False) -> None:
        """`is_open`: the answer is nothing but calls, whose first opening mark may be left out."""
        super().__init__()
        self._format = tool_format
        self._tools = tools
        self._marks = tuple(mark for mark in (tool_format.opening, *tool_format.closing, "<|python_tag|>", "[") if mark)
        self._count = 0  # calls so far
        self._between_calls = is_open or not tool_format.opening  # else in content
        self._body: Body | None = None
        self._raw = ""  # the call at hand, with the marks before it

    def _end(self, held: str) -> None:
        if self._body is not None and not self._body.started:
            self._say(self._raw)
        elif self._body is None and not (self._count and self._between_calls and not self._after_marks(held)):
            self._say(held)
        self._body = None

    def _step(self) -> bool:
        if self._body is not None:
            return self._read_call(self._body)
        return self._look_for_call() if self._between_calls else self._look_for_opening()

    def _look_for_opening(self) -> bool:
        opening = self._format.opening
        before, found, after = self._held.partition(opening) if opening else (self._held, "", "")
        if found:
            self._say(before)
            self._held, self._between_calls = opening + after, True
            return True
        keep = overlap(self._held, opening)
        self._say(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return False

    def _look_for_call(self) -> bool:
        rest = self._after_marks(self._held)
        if not rest or any(mark.startswith(rest) for mark in (*self._marks, *_MAY_BEGIN[self._format.body])):
            return False
        if _begins(rest, self._format.body):
            self._raw, self._held = self._held[: len(self._held) - len(rest)], rest
            self._body = _BODIES[self._format.body](self._tools)
            return True
        self._between_calls = False
        if self._count:
            self._held = rest  # marks after the last call are nobody's text
            return True
        self._say(self._held)
        self._held = ""
        return False

    def _after_marks(self, text: str) -> str:
        """`text` without the blanks and marks that may stand before, between and after calls."""
        while True:
            shorter = text.lstrip()
            if shorter and any(mark.startswith(shorter) and mark != shorter for mark in self._marks):
                return shorter  # a mark that is not complete
            for mark in self._marks:
                shorter = shorter.removeprefix(mark)
            if shorter == text:
                return text
            text = shorter

    def _read_call(self, body: Body) -> bool:
        used = body.push(self._held)
        if body.is_broken and not body.started:
            self._say(self._raw + self._held)
            self._body, self._held, self._between_calls = None, "", False
            return False
        for piece in body.take():
            if piece.name is not None:
                self._pieces.append(CallStart(self._count, piece.name))
            if piece.arguments:
                self._pieces.append(CallArguments(self._count, piece.arguments))
        if used is None:
            self._raw += self._held
            self._held = ""
            return False
        self._body, self._held, self._between_calls = None, self._held[used:], True
        self._count += 1
        return True


# What a call of each kind may begin with, where its first character does not tell.
_MAY_BEGIN: dict[BodyKind, tuple[str, ...]] = {BodyKind.JSON: (), BodyKind.NAMED: (), BodyKind.XML: (FUNCTION,)}
_BODIES: dict[BodyKind, Callable[[Mapping[str, Any]], Body]] = {
    BodyKind.JSON: JsonBody,
    BodyKind.NAMED: NamedBody,
    BodyKind.XML: XmlBody,
}


def _begins(text: str, kind: BodyKind) -> bool:
    if kind is BodyKind.XML:
        return text.startswith(FUNCTION)
    return text[0] == "{" or (kind is BodyKind.NAMED and (text[0].isalnum() or text[0] == "_"))


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` could be the beginning of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
