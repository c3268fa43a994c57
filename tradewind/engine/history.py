"""The newest steps and the newest ended sequences of an engine, so that one can be asked afterwards how it went.

A step costs one append here, whatever its rows: it keeps the message's own bytes. Whose token came when is looked up
only when somebody asks.
"""

from collections import OrderedDict, deque

import msgspec

from tradewind.engine.stream import RequestTimings

STEPS = 8192
STEP_BYTES = 4 * 2**20
ENDED = 4096
"""What is remembered, at most: so many steps, with so many bytes of request ids in all, and so many ended sequences."""

_ID_BYTES = 8


class TokenTime(msgspec.Struct, frozen=True, array_like=True):
    """One token of a sequence: when it arrived (monotonic), and how many sequences got one in the same step."""

    at_s: float
    rows: int


class History:
    """See above. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._ended: OrderedDict[int, RequestTimings] = OrderedDict()

    def add_step(self, request_ids: bytes, now_s: float) -> None:
        """A step's tokens arrived. `request_ids`: native int64[n], as in `Step`; one without any is not remembered."""
        if not request_ids:
            return
        self._steps.append((now_s, request_ids))
        self._bytes += len(request_ids)
        while self._bytes > STEP_BYTES or len(self._steps) > STEPS:
            self._bytes -= len(self._steps.popleft()[1])

    def add_ended(self, timings: RequestTimings) -> None:
        """A sequence ended."""
        self._ended[timings.request_id] = timings
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)

    def ended(self, request_id: int) -> RequestTimings | None:
        """The timings of a sequence that ended not too long ago."""
        return self._ended.get(request_id)

    def tokens_of(self, request_id: int, since_s: float) -> list[TokenTime]:
        """Its tokens in the steps that are remembered, oldest first; none is looked for before `since_s`."""
        found = []
        for at_s, request_ids in reversed(self._steps):
            if at_s < since_s:
                break
            if request_id in memoryview(request_ids).cast("q"):
                found.append(TokenTime(at_s, len(request_ids) // _ID_BYTES))
        return found[::-1]
