"""Order, and whom to stop when blocks run out."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tradewind.scheduler.rows import Rows
from tradewind.scheduler.sequence import Sequence

URGENCY_S = 10.0
"""A sequence this close to its deadline costs twice as much to stop; one at a tenth of it, eleven times."""
NEAREST_S = 0.01


def order_of(policy: Literal["fcfs", "priority"], priority: int, serial: int) -> tuple[int, int]:
    """What sequences are sorted by; smaller runs first."""
    return (priority if policy == "priority" else 0, serial)


@dataclass(frozen=True, slots=True)
class Victims:
    """Chooses which running sequence to stop, by what stopping it costs."""

    rows: Rows
    holders: "np.ndarray[tuple[int], np.dtype[np.int32]]"  # of the block pool, by block

    def choose(self, running: list[Sequence], now_s: float) -> Sequence | None:
        """The one to stop: the least important priority first, then the least cost; None if nobody can be stopped.

        The first in order is never chosen. It therefore always gets blocks, finishes some day, and makes the next one
        first: however small the pool, no two sequences can go on stopping each other for ever.
        """
        if len(running) < 2:
            return None
        first = min(running, key=lambda sequence: sequence.order)
        others = [sequence for sequence in running if sequence is not first]
        return min(others, key=lambda sequence: self._rank(sequence, now_s))

    def _rank(self, sequence: Sequence, now_s: float) -> tuple[bool, int, float, int]:
        cost_tokens, frees_blocks = self._cost(sequence)
        return (not frees_blocks, -sequence.order[0], cost_tokens * self._urgency(sequence, now_s), -sequence.serial)

    def _cost(self, sequence: Sequence) -> tuple[int, int]:
        """Tokens to compute again, and blocks gained. What is in blocks that others hold too will be found again.

        Blocks that only this one holds may survive in the prefix cache too, but not surely: their place is needed now.
        A sequence whose last token is being drawn has nothing to compute any more.
        """
        slot = sequence.slot
        table = self.rows.table(slot)
        shared_blocks = int(np.count_nonzero(self.holders[table] > 1))
        computed = int(self.rows.computed[slot])
        if computed >= self.rows.last_token(slot):
            return 0, len(table) - shared_blocks
        return max(0, computed - shared_blocks * self.rows.block_tokens), len(table) - shared_blocks

    @staticmethod
    def _urgency(sequence: Sequence, now_s: float) -> float:
        deadline_s = sequence.request.deadline_s
        return 1.0 if deadline_s is None else 1.0 + URGENCY_S / max(deadline_s - now_s, NEAREST_S)
