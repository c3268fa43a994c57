"""How single requests went: which sequences of the engine belong to which `X-Request-Id`, for the newest of them."""

from collections import OrderedDict
from dataclasses import dataclass

from tradewind.server.trace import Trace

REQUESTS = 1024
SEQUENCES = 8192
"""What is remembered, at most: so many requests, with so many sequences in all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One HTTP request. `received_s` is monotonic."""

    request_id: str
    caller: str
    received_s: float
    sequences: tuple[int, ...]


class Timelines:
    """The newest requests, by their id and by the engine's ids of their sequences."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[tuple[str, str], Entry] = OrderedDict()  # by caller and request id
        self._by_sequence: dict[int, Entry] = {}

    def add(self, trace: Trace) -> None:
        """`trace`'s request has become sequences. An id that a caller uses again means the newer request."""
        key = (trace.caller.name, trace.request_id)
        self._drop(key)
        entry = Entry(trace.request_id, trace.caller.name, trace.started_s, tuple(trace.sequences))
        self._by_id[key] = entry
        self._by_sequence.update(dict.fromkeys(entry.sequences, entry))
        while len(self._by_id) > REQUESTS or (len(self._by_sequence) > SEQUENCES and len(self._by_id) > 1):
            self._drop(next(iter(self._by_id)))

    def of(self, request_id: str, caller: str) -> Entry | None:
        """The entry of `caller`'s own request; those of others are as unknown as those that never were."""
        return self._by_id.get((caller, request_id))

    def name_of(self, sequence: int, caller: str) -> str | None:
        """The request id of one of the engine's sequences, if the request was `caller`'s own."""
        entry = self._by_sequence.get(sequence)
        return entry.request_id if entry is not None and entry.caller == caller else None

    def _drop(self, key: tuple[str, str]) -> None:
        entry = self._by_id.pop(key, None)
        if entry is not None:
            for sequence in entry.sequences:
                self._by_sequence.pop(sequence, None)
