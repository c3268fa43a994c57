"""Stop strings in a stream of text."""

from typing import NamedTuple

from tradewind.base.errors import RequestError


class StopScan(NamedTuple):
    """Text that may be given out, and the stop string that ended it (None: go on)."""

    text: str
    stopped_by: str | None


class StopStrings:
    """Finds the first stop string in a text that arrives in parts, wherever the borders fall.

    The match that is complete first wins, and the longest of those complete at the same character: so the answer
    depends on the text alone, not on how it was cut, and nothing has to be generated beyond the stop. Text that
    could still become part of a match is held back. Each stop string is followed by its own Knuth-Morris-Pratt
    automaton, so the work per character is bounded whatever the stop strings are.
    """

    __slots__ = ("_automata", "_first_characters", "_held", "_include", "_stopped_by")

    def __init__(self, stops: list[str], include: bool = False) -> None:
        """`include`: whether the text ends with the stop string or before it. RequestError for an empty one."""
        if "" in stops:
            raise RequestError("stop strings must not be empty", field="stop")
        self._automata = [_Automaton(stop) for stop in dict.fromkeys(stops)]
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._include = include
        self._held = ""
        self._stopped_by: str | None = None

    def push(self, text: str) -> StopScan:
        """Take the next part of the text. Once stopped, all further text is dropped."""
        if not self._automata:
            return StopScan(text, None)
        if self._stopped_by is not None:
            return StopScan("", self._stopped_by)
        if not self._held and self._first_characters.isdisjoint(text):
            return StopScan(text, None)
        return self._scan(text)

    def flush(self) -> str:
        """The text ended without a stop string: what was held back."""
        held, self._held = self._held, ""
        for automaton in self._automata:
            automaton.matched = 0
        return held

    def _scan(self, text: str) -> StopScan:
        for place, character in enumerate(text):
            stop = self._advance(character)
            if stop is not None:
                seen = self._held + text[: place + 1]
                self._held, self._stopped_by = "", stop
                return StopScan(seen if self._include else seen[: len(seen) - len(stop)], stop)
        seen = self._held + text
        settled = len(seen) - max(automaton.matched for automaton in self._automata)
        self._held = seen[settled:]
        return StopScan(seen[:settled], None)

    def _advance(self, character: str) -> str | None:
        """Feed one character to every automaton; the longest stop string that it completes."""
        longest = None
        for automaton in self._automata:
            if automaton.advance(character) and (longest is None or len(automaton.stop) > len(longest)):
                longest = automaton.stop
        return longest


class _Automaton:
    """Knuth, Morris, Pratt (1977): `matched` is the length of the longest prefix of `stop` that the text ends with."""

    __slots__ = ("_fallback", "matched", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._fallback = [0] * len(stop)  # [n - 1]: longest proper border of stop[:n]
        for length in range(1, len(stop)):
            border = self._fallback[length - 1]
            while border and stop[length] != stop[border]:
                border = self._fallback[border - 1]
            self._fallback[length] = border + (stop[length] == stop[border])

    def advance(self, character: str) -> bool:
        """Take one character; whether the stop string is now complete. Not to be called after that."""
        matched = self.matched
        while matched and self.stop[matched] != character:
            matched = self._fallback[matched - 1]
        self.matched = matched + (self.stop[matched] == character)
        return self.matched == len(self.stop)
