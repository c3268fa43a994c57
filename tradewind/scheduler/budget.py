"""How the tokens of one step are divided.

Two things bound a step: how many tokens it computes (the device's memory is made for so many), and what they cost with
the contexts that they read (cost.py), so that a step takes about as long wherever in their prompts its chunks are. It
may cost what the first chunk of a long prompt does: as many tokens as a step can have, before which there are none. So
the number of tokens is what counts while contexts are short, and chunks become smaller as a prompt is computed.

Decode rows come first, one token each: a step never makes a running stream wait. What is left goes to prompts. Where
decode rows with long contexts leave little of a step's cost, prompts may still make the step longer by a quarter: its
length is then the decode rows' doing, and prompts that crawled would not make it shorter.

- The first in order gets half of it, or more if the others leave some; and a block at least, whatever it costs. So a
  long prompt always moves.
- The others share the other half, those with the least left to compute first. So a short prompt does not wait behind a
  long one, and equal prompts finish one after the other instead of all at the end, which is the better mean time to
  the first token.

New sequences are admitted while fewer than `MIN_PREFILLS` prompts are in hand, or while those behind the first cannot
use up a step's tokens by themselves; admitting more would only take slots and blocks early.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tradewind.protocol.plan import RunnerInfo
from tradewind.scheduler.cost import Costs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]

MIN_PREFILLS = 4
PROMPTS_SHARE = 4
"""Prompts may cost one in so many parts of what the decode rows beside them cost, however much that is."""


class Rest(NamedTuple):
    """Of a prompt: how many tokens have been computed, and how many are to be."""

    computed: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Room:
    """What the prompts of a step may use: so many tokens, of this cost together."""

    tokens: int
    cost: float


class Budget:
    """The most that a step computes: `step_tokens`, and what they cost together."""

    def __init__(self, info: RunnerInfo, step_tokens: int) -> None:
        self.step_tokens = step_tokens
        self._costs = Costs(info.context_cost)
        self._block_tokens = info.block_tokens
        self._step_cost = self._costs.row(0, step_tokens)

    def beside(self, decodes_R: "Int32s") -> Room:
        """What decode rows leave. `decodes_R`: how many tokens each has computed."""
        cost = self._costs.decodes(decodes_R)
        return Room(self.step_tokens - len(decodes_R), max(self._step_cost - cost, cost / PROMPTS_SHARE))

    def divide(self, prompts: list[Rest], room: Room) -> list[int]:
        """Chunk sizes (0: not in this step) for prompts in their order.

        They use no more than `room`, except that the first one's chunk may be a block that costs more than half of it.
        """
        chunks = [0] * len(prompts)
        if not prompts or room.tokens <= 0:
            return chunks
        half = Room((room.tokens + 1) // 2, (room.cost + 1) / 2)
        block = min(self._block_tokens, half.tokens, prompts[0].tokens)
        chunks[0] = max(self._fitting(prompts[0], half), block)
        first_cost = min(self._costs.row(prompts[0].computed, chunks[0]), half.cost)
        tokens, cost = room.tokens - chunks[0], room.cost - first_cost
        for index in self._least_first(prompts):
            if not tokens or cost < 1:
                break
            chunk = chunks[index] = self._fitting(prompts[index], Room(tokens, cost))
            tokens, cost = tokens - chunk, cost - self._costs.row(prompts[index].computed, chunk)
        chunks[0] = max(chunks[0], self._fitting(prompts[0], Room(tokens + chunks[0], cost + first_cost)))
        return chunks

    def _fitting(self, prompt: Rest, room: Room) -> int:
        return self._costs.fitting(prompt.computed, min(prompt.tokens, room.tokens), room.cost)

    def _least_first(self, prompts: list[Rest]) -> list[int]:
        """Places of all prompts but the first, by what is left to compute of them."""
        costs = [self._costs.row(prompt.computed, prompt.tokens) for prompt in prompts]
        return sorted(range(1, len(prompts)), key=lambda index: costs[index])


def wants_more(remaining_tokens: list[int], budget_tokens: int) -> bool:
    """Whether another prompt should be admitted beside those that have `remaining_tokens` to compute."""
    return len(remaining_tokens) < MIN_PREFILLS or sum(remaining_tokens[1:]) < budget_tokens
