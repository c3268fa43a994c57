"""GPT-OSS's format of answers, harmony: messages with a header each, which names their channel and whom they are for.

    <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.NAME
    <|constrain|>json<|message|>{...}<|call|>

The prompt ends with `<|start|>assistant`. What is analysis is reasoning, what is for a function is a call, and the rest
is content. What is none of that, or is for nobody known, is content as it was written.
"""

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

from tradewind.text.tool_calls import CallArguments, CallStart, Reasoning, SteppedReader, overlap

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
MARKS = (START, CHANNEL, MESSAGE, CONSTRAIN, END, CALL, RETURN)
FUNCTIONS = "functions."

_CLOSING = (END, CALL, RETURN)
_BEGINNINGS = (START, CHANNEL, MESSAGE, "to=")  # of a header
_LONGEST_HEADER = 512  # characters
_GAP = "\n\n"  # between two messages of the same kind


class _Stage(Enum):
    HEADER = auto()
    BODY = auto()
    LOOSE = auto()  # text outside of any message


class _Kind(Enum):
    """What a message's body is."""

    REASONING = auto()
    CONTENT = auto()
    CALL = auto()
    RAW = auto()  # content as it was written, marks included


class HarmonyReader(SteppedReader):
    """Takes answers apart. See Reader. Only functions of `tools` (name -> schema of the arguments) can be called."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__()
        self._tools = tools
        self._stage = _Stage.HEADER
        self._kind = _Kind.CONTENT
        self._raw = ""  # of a call that has not begun: all that was written of it
        self._name: str | None = None  # of that call
        self._count = 0  # calls so far
        self._begun: set[_Kind] = set()
        self._gap = ""

    def _end(self, held: str) -> None:
        if self._stage is _Stage.BODY:
            self._extend(held)
            if self._name is not None:
                self._say(self._raw)
        elif self._stage is _Stage.LOOSE or not held.lstrip().startswith((START, CHANNEL, MESSAGE)):
            self._say(held if self._stage is _Stage.LOOSE or held.strip() else "")

    def _step(self) -> bool:
        if self._stage is _Stage.HEADER:
            return self._read_header()
        return self._read_body() if self._stage is _Stage.BODY else self._read_loose()

    # --- headers -----------------------------------------------------------------------------------------------------

    def _read_header(self) -> bool:
        begun = self._held.lstrip()
        if not begun.startswith(_BEGINNINGS):
            return self._loosen() if not any(mark.startswith(begun) for mark in _BEGINNINGS) else False
        place, mark = _first(self._held, (MESSAGE, *_CLOSING))
        if mark == MESSAGE and place <= _LONGEST_HEADER:
            header, self._held = self._held[:place], self._held[place + len(MESSAGE) :]
            self._begin(header)
            return True
        return self._loosen() if mark or len(self._held) > _LONGEST_HEADER + len(MESSAGE) else False

    def _loosen(self) -> bool:
        """It is no header: text from here on, to the next mark that could begin one."""
        settled = len(self._held) - len(self._held.lstrip()) + 1
        self._say(self._held[:settled])
        self._held, self._stage = self._held[settled:], _Stage.LOOSE
        return True

    def _begin(self, header: str) -> None:
        self._stage, self._raw, self._name = _Stage.BODY, header + MESSAGE, None
        self._kind = self._kind_of(header)
        if self._kind is _Kind.RAW:
            self._say(self._raw)
        is_prose = self._kind in (_Kind.REASONING, _Kind.CONTENT)
        self._gap = _GAP if is_prose and self._kind in self._begun else ""

    def _kind_of(self, header: str) -> _Kind:
        role = re.match(rf"\s*{re.escape(START)}\s*([\w.]*)", header)
        channel = re.search(rf"{re.escape(CHANNEL)}\s*(\w+)", header)
        recipient = re.search(r"(?:^|[\s>])to=([^\s<]+)", header)
        if role is not None and role[1] != "assistant":
            return _Kind.RAW
        if recipient is None:
            return _Kind.REASONING if channel is not None and channel[1] == "analysis" else _Kind.CONTENT
        name = recipient[1].removeprefix(FUNCTIONS)
        if not recipient[1].startswith(FUNCTIONS) or name not in self._tools:
            return _Kind.RAW
        self._name = name
        return _Kind.CALL

    # --- bodies ------------------------------------------------------------------------------------------------------

    def _read_body(self) -> bool:
        place, mark = _first(self._held, (*_CLOSING, START, CHANNEL))
        if mark is None:
            keep = max(overlap(self._held, known) for known in (*_CLOSING, START, CHANNEL))
            settled = len(self._held) - keep
            self._extend(self._held[:settled])
            self._held = self._held[settled:]
            return False
        self._extend(self._held[:place])
        self._held = self._held[place:]
        if mark in _CLOSING:
            self._held = self._held[len(mark) :]
        self._close(mark if mark in _CLOSING else "")
        return True

    def _extend(self, text: str) -> None:
        """More of the body."""
        if not text:
            return
        if self._kind is _Kind.REASONING:
            self._pieces.append(Reasoning(self._gap + text))
        elif self._kind is _Kind.CALL:
            self._extend_call(text)
        else:
            self._say(self._gap + text)
        self._gap = ""
        self._begun.add(self._kind)

    def _extend_call(self, text: str) -> None:
        """A call has begun when its arguments have, which are a JSON object."""
        if self._name is None:
            self._pieces.append(CallArguments(self._count, text))
            return
        self._raw += text
        arguments = text.lstrip()
        if arguments.startswith("{"):
            self._pieces += (CallStart(self._count, self._name), CallArguments(self._count, arguments))
            self._name = None
        elif arguments:
            self._say(self._raw)
            self._kind, self._name = _Kind.RAW, None

    def _close(self, mark: str) -> None:
        if self._name is not None:  # without a word about its arguments
            self._pieces += (CallStart(self._count, self._name), CallArguments(self._count, "{}"))
            self._name = None
        if self._kind is _Kind.CALL:
            self._count += 1
        elif self._kind is _Kind.RAW:
            self._say(mark)
        self._stage = _Stage.HEADER

    def _read_loose(self) -> bool:
        place, mark = _first(self._held, (START, CHANNEL))
        settled = place if mark else len(self._held) - max(overlap(self._held, START), overlap(self._held, CHANNEL))
        self._say(self._held[:settled])
        self._held = self._held[settled:]
        if mark:
            self._stage = _Stage.HEADER
        return bool(mark)


def _first(text: str, marks: Sequence[str]) -> tuple[int, str | None]:
    """The first of `marks` in `text`, and where it is."""
    found = [(place, mark) for mark in marks if (place := text.find(mark)) >= 0]
    return min(found, default=(-1, None))


# --- conversations, as the template wants them -----------------------------------------------------------------------


def told(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for GPT-OSS's template, which reads one call a message, its result next, and reasoning as `thinking`."""
    results = {str(message.get("tool_call_id")): dict(message) for message in messages if message.get("role") == "tool"}
    written: list[dict[str, Any]] = []
    for message in messages:
        calls = message.get("tool_calls")
        if message.get("role") == "tool":
            result = results.pop(str(message.get("tool_call_id")), None)
            written += [] if result is None else [result]
        elif isinstance(calls, list) and calls:
            written += _one_by_one(message, calls, results)
        else:
            left_out = {"reasoning_content", "reasoning", "tool_calls"}
            kept = {key: value for key, value in message.items() if key not in left_out}
            written.append({**kept, "content": kept.get("content") or ""})
    return written


def _one_by_one(
    message: Mapping[str, Any], calls: list[Any], results: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A message with calls as one for each, followed by its result. What was thought stands before the first."""
    texts = (message.get("reasoning_content") or message.get("reasoning"), _text_of(message.get("content")))
    thinking = _GAP.join(text for text in texts if isinstance(text, str) and text)
    written: list[dict[str, Any]] = []
    for call in calls:
        said: dict[str, Any] = {"role": message["role"], "content": "", "tool_calls": [call]}
        written.append({**said, "thinking": thinking} if thinking and not written else said)
        result = results.pop(str(call.get("id")), None) if isinstance(call, Mapping) else None
        if result is not None:
            written.append(result)
    return written


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def described(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools for the template, which cannot do without a description."""
    return [{**tool, "function": {"description": "", **tool["function"]}} for tool in tools]
