"""How fast requests finish: the base of Retry-After."""

from collections import deque

from tradewind.base.clock import Clock

REMEMBERED = 64
UNKNOWN_S = 1.0
SHORTEST_S = 0.1
LONGEST_S = 60.0


class Pace:
    """The moments of recent completions."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends_s: deque[float] = deque(maxlen=REMEMBERED)
        self._refused = 0  # since the last completion

    def completed(self) -> None:
        """A request has ended: there is a place again."""
        self._ends_s.append(self._clock.now_s())
        self._refused = 0

    def refuse(self) -> float:
        """Seconds until there should be a place for one more; each refusal since the last completion is one further
        back, so that the refused do not all come back at the same moment."""
        self._refused += 1
        if len(self._ends_s) < 2:
            return UNKNOWN_S
        # Up to now and not to the last completion: a pace that has broken off must not look good.
        interval_s = (self._clock.now_s() - self._ends_s[0]) / len(self._ends_s)
        return min(max(interval_s * self._refused, SHORTEST_S), LONGEST_S)
