"""Responses that were given, in memory and for a while: of one API key each, bounded in number and bytes."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from tradewind.base.errors import NotFound

_OVERHEAD_BYTES = 1024  # of an entry, besides its texts


@dataclass(frozen=True, slots=True)
class Stored:
    """One response, encoded. `before`: lists of items, all that it answers; `output`: the items of the answer."""

    owner: str
    response: bytes
    before: tuple[bytes, ...]
    output: bytes

    @property
    def size_bytes(self) -> int:
        """An upper bound: lists shared with an earlier response are counted with both."""
        return len(self.response) + len(self.output) + sum(map(len, self.before)) + _OVERHEAD_BYTES

    @property
    def conversation(self) -> tuple[bytes, ...]:
        """What a response to this one follows on."""
        return (*self.before, self.output)


def decoded(lists: tuple[bytes, ...]) -> list[dict[str, Any]]:
    """The items of encoded lists."""
    return [item for items in lists for item in msgspec.json.decode(items)]


@dataclass(slots=True)
class ResponseStore:
    """The newest responses. When a new one has no room, the oldest go."""

    max_responses: int
    max_bytes: int
    size_bytes: int = 0
    _stored: dict[str, Stored] = field(default_factory=dict)  # oldest first
    _holders: dict[str, str] = field(default_factory=dict)  # id of an item of an answer -> id of its response

    def add(self, response_id: str, stored: Stored, item_ids: list[str]) -> None:
        """Keep a response, if it has room at all."""
        if stored.size_bytes > self.max_bytes:
            return
        self._stored[response_id] = stored
        self.size_bytes += stored.size_bytes
        for item_id in item_ids:
            self._holders[item_id] = response_id
        while len(self._stored) > self.max_responses or self.size_bytes > self.max_bytes:
            self._drop(next(iter(self._stored)))

    def get(self, response_id: str, owner: str, field: str = "response_id") -> Stored:
        """Raises NotFound for one that is not, or no longer, here; that of another owner is not here."""
        stored = self._stored.get(response_id)
        if stored is None or stored.owner != owner:
            message = f"no response {response_id[:80]!r} is stored here: it may have made room for newer ones"
            raise NotFound(message, field=field)
        return stored

    def delete(self, response_id: str, owner: str) -> None:
        """Raises NotFound as `get` does."""
        self.get(response_id, owner)
        self._drop(response_id)

    def find_item(self, item_id: str, owner: str) -> dict[str, Any] | None:
        """An item of an answer, by its id."""
        stored = self._stored.get(self._holders.get(item_id, ""))
        if stored is None or stored.owner != owner:
            return None
        return next(item for item in decoded((stored.output,)) if item["id"] == item_id)

    def _drop(self, response_id: str) -> None:
        stored = self._stored.pop(response_id)
        self.size_bytes -= stored.size_bytes
        for item in decoded((stored.output,)):
            self._holders.pop(item["id"], None)
