"""What the rows of a step cost: their tokens, and the contexts that these read.

The unit is a token's worth: what one token costs that reads no context (see ContextCost).
"""

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.cost import ContextCost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]

_NO_WINDOW = 2**40


class Costs:
    """Prices of rows on one device."""

    def __init__(self, context: ContextCost) -> None:
        self._kinds = [(cost, window or _NO_WINDOW) for cost, window in context.kinds]
        self._least_tokens = context.least_tokens

    def row(self, computed: int, tokens: int) -> float:
        """Of a row that computes `tokens` after `computed` others. Never less with more tokens."""
        if not tokens:
            return 0.0
        context = 0.0
        for cost, window in self._kinds:
            pairs = _pairs(computed + tokens, window) - _pairs(computed, window)
            context += cost * max(pairs, self._least_tokens * min(computed + 1, window))
        return tokens + context

    def decodes(self, computed_R: "Int32s") -> float:
        """Of rows that compute one token each."""
        total = float(len(computed_R))
        for cost, window in self._kinds:
            total += cost * self._least_tokens * float(np.minimum(computed_R + 1, window, dtype=np.int64).sum())
        return total

    def fitting(self, computed: int, tokens: int, most: float) -> int:
        """How many of `tokens` a row may compute after `computed` others so that it costs no more than `most`."""
        if self.row(computed, tokens) <= most:
            return tokens
        return bisect_right(range(1, tokens), most, key=lambda count: self.row(computed, count))


def _pairs(end: int, window: int) -> int:
    """How many tokens the first `end` tokens see, all together."""
    full = min(end, window)
    return full * (full + 1) // 2 + (end - full) * window
