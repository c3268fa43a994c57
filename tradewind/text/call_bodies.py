"""One tool call, read as it comes: its name, then its arguments as JSON text."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FUNCTION = "<function="
_ARGUMENTS_MARK = "[ARGS]"
_ARGUMENT_KEYS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class CallPiece:
    """What is new: the name, once, and then more of the arguments."""

    name: str | None
    arguments: str


class Body(ABC):
    """One call. `is_broken`: it is none of the functions that can be called, or not written as a call is."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        self._tools = tools
        self.is_broken = False
        self.started = False  # the name has been given out
        self._pieces: list[CallPiece] = []

    @abstractmethod
    def push(self, text: str) -> int | None:
        """Take more text. When the call is complete: how many characters of `text` belonged to it."""

    def take(self) -> list[CallPiece]:
        """What is new since the last time."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _start(self, name: str) -> None:
        if name in self._tools:
            self.started = True
            self._pieces.append(CallPiece(name, ""))
        else:
            self.is_broken = True

    def _say(self, arguments: str) -> None:
        if arguments:
            self._pieces.append(CallPiece(None, arguments))


class _Braces:
    """How deep a JSON text is at a character, and whether that is in a string."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def advance(self, character: str) -> None:
        """The next character."""
        if self.in_string:
            self.in_string = self._escaped or character != '"'
            self._escaped = not self._escaped and character == "\\"
        elif character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1


class JsonBody(Body):
    """`{"name": ..., "arguments": {...}}`; the arguments are given out as they are written."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._at = _Braces()
        self._key: str | None = None  # of the top level, whose value comes
        self._string = ""  # the one at hand, if it is of the top level
        self._name: str | None = None
        self._early = ""  # arguments that came before the name
        self._has_arguments = False

    def push(self, text: str) -> int | None:
        """See Body."""
        begun = 0 if self._in_arguments else None  # where this text's part of the arguments begins
        for place, character in enumerate(text):
            was_inside = self._in_arguments
            self._advance(character)
            if self.is_broken:
                return None
            if begun is None and self._in_arguments:
                begun = place
            elif begun is not None and was_inside and not self._in_arguments:
                self._give(text[begun : place + 1])
                begun = self._key = None
            if self._at.depth == 0:
                self._end()
                return place + 1
        if begun is not None:
            self._give(text[begun:])
        return None

    @property
    def _in_arguments(self) -> bool:
        return self._key in _ARGUMENT_KEYS and self._at.depth >= 2

    def _give(self, arguments: str) -> None:
        self._has_arguments = True
        self._early += arguments
        self._give_known()

    def _give_known(self) -> None:
        """A call is given out when its arguments have begun: until then it may turn out to be none."""
        if self._name is None or self.is_broken:
            return
        if not self.started:
            self._start(self._name)
        if not self.is_broken:
            self._say(self._early)
            self._early = ""

    def _advance(self, character: str) -> None:
        at = self._at
        was_in_string, was_deep = at.in_string, at.depth
        at.advance(character)
        if was_deep == 0 and character != "{":
            self.is_broken = True
        elif was_deep == 1 and (was_in_string or at.in_string):
            self._string = self._string + character if was_in_string else character
            if not at.in_string:
                self._end_of_string()
        elif was_deep == 1 and character == ",":
            self._key = None
        elif was_deep == 1 and character == "[" and self._key in _ARGUMENT_KEYS:
            self.is_broken = True

    def _end_of_string(self) -> None:
        try:
            value: str = json.loads(self._string)
        except ValueError:
            self.is_broken = True
            return
        if self._key is None:
            self._key = value
        elif self._key in _ARGUMENT_KEYS:
            self.is_broken = True
        elif self._key == "name" and self._name is None:
            self._name = value
            self.is_broken = value not in self._tools
            if self._has_arguments:
                self._give_known()

    def _end(self) -> None:
        if not self._has_arguments:
            self._early = "{}"
            self._give_known()
        self.is_broken = not self.started


class NamedBody(Body):
    """Mistral's two ways: `name[ARGS]{...}`, or a JSON call."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._header: str | None = ""  # None once it is complete
        self._at = _Braces()
        self._call: JsonBody | None = None  # where a whole JSON call comes

    def push(self, text: str) -> int | None:
        """See Body."""
        if self._call is not None:
            return self._push_call(self._call, text)
        if self._header is None:
            return self._push_arguments(text)
        before, brace, _ = text.partition("{")
        self._header += before
        header = self._header.strip()
        if not brace:
            self.is_broken = not any((name + _ARGUMENTS_MARK).startswith(header) for name in self._tools)
            return None
        rest = text[len(before) :]
        self._header = None
        if not header:
            self._call = JsonBody(self._tools)
            used = self._push_call(self._call, rest)
        else:
            self._start(header.removesuffix(_ARGUMENTS_MARK).strip())
            used = None if self.is_broken else self._push_arguments(rest)
        return None if used is None else used + len(before)

    def _push_call(self, call: JsonBody, text: str) -> int | None:
        used = call.push(text)
        self._pieces += call.take()
        self.started, self.is_broken = call.started, call.is_broken
        return used

    def _push_arguments(self, text: str) -> int | None:
        """They end where their braces do."""
        for place, character in enumerate(text):
            self._at.advance(character)
            if self._at.depth == 0:
                self._say(text[: place + 1])
                return place + 1
        self._say(text)
        return None


class XmlBody(Body):
    """Qwen3-Coder's: values are texts, written as they are, and become what the schema says that they are."""

    def __init__(self, tools: Mapping[str, Any]) -> None:
        super().__init__(tools)
        self._held = ""
        self._schema: Any = {}
        self._count = 0

    def push(self, text: str) -> int | None:
        """See Body."""
        self._held += text
        if not self.started and not self._read_header():
            return None
        while self._read_parameter():
            pass
        place = self._held.find("</function>")
        if place < 0 or self._begins_parameter():
            return None
        self._say("}" if self._count else "{}")
        return len(text) - (len(self._held) - place - len("</function>"))

    def _read_header(self) -> bool:
        name, found, rest = self._held.removeprefix(FUNCTION).partition(">")
        if not found:
            return False
        self._start(name.strip())
        self._schema = self._tools.get(name.strip(), {})
        self._held = rest
        return self.started

    def _begins_parameter(self) -> bool:
        """Whether the next thing is a parameter and not the end."""
        before, begun, _ = self._held.partition("<parameter=")
        return bool(begun) and "</function>" not in before

    def _read_parameter(self) -> bool:
        if not self._begins_parameter():
            return False
        before, found, after = self._held.partition("</parameter>")
        _, begun, rest = before.partition("<parameter=")
        key, named, value = rest.partition(">")
        if not (found and begun and named):
            return False
        properties = self._schema.get("properties", {}) if isinstance(self._schema, dict) else {}
        text = value.removeprefix("\n").removesuffix("\n")
        written = json.dumps(_value_of(text, properties.get(key)), ensure_ascii=False)
        self._say(f"{', ' if self._count else '{'}{json.dumps(key, ensure_ascii=False)}: {written}")
        self._count += 1
        self._held = after
        return True


def _value_of(text: str, schema: Any) -> Any:
    """JSON where the schema asks for anything but a text, if it is JSON."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
