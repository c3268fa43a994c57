"""A step that has been issued and not yet applied."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.plan import StepPlan
from tradewind.scheduler.rows import Group
from tradewind.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Known tokens [start, end) of a sequence."""

    sequence: Sequence
    start: int
    end: int

    @property
    def samples(self) -> bool:
        """Whether these are the last known tokens, so that the next one is drawn."""
        return self.end == self.sequence.known_tokens


@dataclass(frozen=True, slots=True)
class Flight:
    """What `apply` needs to know of a plan. `ends[i]`: the position of the token drawn for row i of `sampled`."""

    plan: StepPlan
    sampled: Group
    ends: "Int32s"
    chunks: tuple[Chunk, ...]
    departures: int  # how many slots had been vacated when it was planned

    def tokens_of(self, sequence: Sequence) -> int:
        """How many tokens the step computes for `sequence` in its present life."""
        if sequence.life_step < 0 or sequence.life_step > self.plan.step:
            return 0
        return int(self.plan.new_tokens[self.plan.slots == sequence.slot].sum())
