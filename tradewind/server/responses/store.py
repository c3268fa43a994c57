"""Responses that were given, in memory and for a while: of one API key each, bounded in number and bytes."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from tradewind.base.errors import NotFound, Overloaded, RequestError
from tradewind.server.responses.event_log import EventLog

_OVERHEAD_BYTES = 1024  # of an entry, besides its texts
_RETRY_S = 2.0  # nobody knows when a response will end


@dataclass(frozen=True, slots=True)
class Stored:
    """One response, encoded. `before`: lists of items, all that it answers; `output`: the items of the answer.

    `log`: its events, if it was made in the background and as a stream.
    """

    owner: str
    response: bytes
    before: tuple[bytes, ...]
    output: bytes
    in_background: bool = False
    log: EventLog | None = None

    @property
    def size_bytes(self) -> int:
        """An upper bound: lists shared with an earlier response are counted with both."""
        events = 0 if self.log is None else self.log.size_bytes
        return len(self.response) + len(self.output) + sum(map(len, self.before)) + events + _OVERHEAD_BYTES

    @property
    def conversation(self) -> tuple[bytes, ...]:
        """What a response to this one follows on."""
        return (*self.before, self.output)


class Unfinished(Protocol):
    """A response that is being made in the background."""

    owner: str
    before: tuple[bytes, ...]
    log: EventLog | None

    def response(self) -> dict[str, Any]:
        """The response as it is now, `queued` or `in_progress`."""
        ...

    async def cancel(self) -> None:
        """Make no more of it, and give what there is to the store."""
        ...


def decoded(lists: tuple[bytes, ...]) -> list[dict[str, Any]]:
    """The items of encoded lists."""
    return [item for items in lists for item in msgspec.json.decode(items)]


@dataclass(slots=True)
class ResponseStore:
    """The newest responses. When a new one has no room, the oldest go. Those that are being made are kept apart."""

    max_responses: int
    max_bytes: int
    max_unfinished: int
    size_bytes: int = 0
    _stored: dict[str, Stored] = field(default_factory=dict)  # oldest first
    _holders: dict[str, str] = field(default_factory=dict)  # id of an item of an answer -> id of its response
    _unfinished: dict[str, Unfinished] = field(default_factory=dict)

    def begin(self, response_id: str, unfinished: Unfinished) -> None:
        """A response is being made in the background. Raises Overloaded if too many are."""
        if len(self._unfinished) >= self.max_unfinished:
            message = f"{self.max_unfinished} responses are being made in the background already; try again later"
            raise Overloaded(message, retry_after_s=_RETRY_S)
        self._unfinished[response_id] = unfinished

    def finish(self, response_id: str, stored: Stored, item_ids: list[str]) -> None:
        """What `begin` began is over."""
        del self._unfinished[response_id]
        self.add(response_id, stored, item_ids)

    def unfinished(self, response_id: str, owner: str) -> Unfinished | None:
        """One of `owner`'s that is being made."""
        found = self._unfinished.get(response_id)
        return found if found is not None and found.owner == owner else None

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
        """A finished response.

        Raises NotFound for one that is not, or no longer, here; that of another owner is not here. Raises RequestError
        for one that is being made.
        """
        if self.unfinished(response_id, owner) is not None:
            raise RequestError(f"the response {response_id!r} is not finished yet", field=field)
        stored = self._stored.get(response_id)
        if stored is None or stored.owner != owner:
            message = f"no response {response_id[:80]!r} is stored here: it may have made room for newer ones"
            raise NotFound(message, field=field)
        return stored

    def delete(self, response_id: str, owner: str) -> None:
        """Raises what `get` raises."""
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
