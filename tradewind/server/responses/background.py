"""Responses that are made while nobody waits for them: asked after, followed, and cancelled by their ids."""

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from tradewind.base.errors import Overloaded, TradewindError
from tradewind.base.log import fields
from tradewind.server.errors import internal_error
from tradewind.server.generation import Generation
from tradewind.server.responses.event_log import EventLog, encoded
from tradewind.server.responses.shape import Event, ResponseShape
from tradewind.server.responses.store import ResponseStore, Stored

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a response is kept, and with what. `log`: of its events, if it is a stream."""

    response_id: str
    store: ResponseStore
    owner: str
    conversation: tuple[bytes, ...]
    log: EventLog | None


class Background:
    """One response, which is in the store's hands from `start` on. See Unfinished."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._is_cancelled = False
        self._whole: dict[str, Any] = {}
        self.owner = place.owner
        self.before = place.conversation
        self.log = place.log

    def keep(self, response: dict[str, Any]) -> None:
        """See ResponseHead. It goes to the store with its last events."""
        self._whole = response

    def start(self, generation: Generation, shape: ResponseShape) -> "asyncio.Task[None]":
        """Begin. The task ends with the response, and does not fail. Raises what `ResponseStore.begin` raises."""
        self._generation = generation
        self._shape = shape
        try:
            self._place.store.begin(self._place.response_id, self)
        except Overloaded:
            generation.abort()
            raise
        self._note(shape.queue())
        self._task = asyncio.create_task(self._run())
        return self._task

    def response(self) -> dict[str, Any]:
        """See Unfinished."""
        return self._shape.unfinished("in_progress" if self._generation.has_begun else "queued")

    async def cancel(self) -> None:
        """See Unfinished."""
        self._is_cancelled = True
        self._generation.abort()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            self._note(await self._make())
        except Exception:  # the task's border: nobody awaits it, and whoever asks must hear of an end
            log.exception("response failed", extra=fields(response_id=self._place.response_id))
            self._note(self._shape.fail(internal_error()))
        if self.log is not None:
            self.log.end()
        output = self._whole["output"]
        stored = Stored(
            self.owner,
            msgspec.json.encode(self._whole),
            self.before,
            msgspec.json.encode(output),
            in_background=True,
            log=self.log,
        )
        self._place.store.finish(self._place.response_id, stored, [item["id"] for item in output])

    async def _make(self) -> list[Event]:
        """All of it but its last events."""
        try:
            async with aclosing(self._generation.read()) as news:
                async for _first, deltas in news:
                    self._note(self._shape.take(deltas))
        except TradewindError as error:
            if self._is_cancelled:
                return self._shape.cancel()
            self._generation.note_error(error)
            return self._shape.fail(error)
        finally:
            self._generation.abort()
            self._generation.note_usage()
        if self.log is None:
            self._shape.whole()
            return []
        return self._shape.complete(self._generation.usage)

    def _note(self, events: list[Event]) -> None:
        if self.log is not None:
            self.log.add(map(encoded, events))
