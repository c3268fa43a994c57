"""One sequence, as the scheduler knows it. What changes with every token lives in columns (rows.py) instead."""

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.hashing import BlockHash, block_hashes, chain_start
from tradewind.protocol.request import EngineRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]

NO_SLOT = -1
NEVER = -1


class State(Enum):
    """Where a sequence is. Only WAITING and PARKED sequences may be without a slot; the last four have one."""

    WAITING = "waiting"  # in the queue, never ran
    PARKED = "parked"  # out of the queue until the prefix it shares has been computed by another sequence
    PREFILL = "prefill"  # running: known tokens are being computed
    DECODE = "decode"  # running: one token a step
    PREEMPTED = "preempted"  # in the queue, keeps its slot and tokens, holds no block
    DONE = "done"


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and its progress. `order` decides who is first (see policy.py); `serial` is the order of arrival."""

    request: EngineRequest  # without its prompt_tokens
    prompt: "Int32s"
    order: tuple[int, int]
    serial: int
    state: State = State.WAITING
    slot: int = NO_SLOT
    lives: int = 0  # how often it was preempted
    ticket: int = NEVER  # its place in a queue, if it is in one
    start_step: int = NEVER  # the step with its RowStart
    life_step: int = NEVER  # the first step of this life
    known_tokens: int = 0  # prompt, and what had been said when this life began
    sent_blocks: int = 0  # entries of its table that the runner has
    published_blocks: int = 0  # full blocks offered to the prefix cache
    next_prompt_logprob: int = 1  # the first position whose prompt logprobs have not been delivered
    may_park: bool = True
    is_held: bool = False  # what it may say next is not known yet: it draws no token
    parked_on: BlockHash | None = None
    promised: list[BlockHash] = field(default_factory=list)
    hashes: list[BlockHash] = field(default_factory=list)
    prompt_chain: list[BlockHash] = field(default_factory=list)  # the prompt's part; sequences of one request share it

    @property
    def request_id(self) -> int:
        return self.request.request_id

    @property
    def is_running(self) -> bool:
        return self.state in (State.PREFILL, State.DECODE)

    @property
    def limit_tokens(self) -> int:
        """The longest it can become."""
        return len(self.prompt) + self.request.max_tokens

    def begins_as(self, other: "Sequence") -> bool:
        """Whether both have the same prompt and share cached prefixes: then their prompts' hashes are the same."""
        return self.request.cache_salt == other.request.cache_salt and np.array_equal(self.prompt, other.prompt)

    def chain(self, tokens: "Int32s", count_blocks: int, block_tokens: int) -> list[BlockHash]:
        """The hashes of its first `count_blocks` blocks. `tokens` (what is known of it) must cover them."""
        have = len(self.hashes)
        if have < count_blocks and have < len(self.prompt_chain):
            self.hashes = self.prompt_chain[:count_blocks]
            have = len(self.hashes)
        if have < count_blocks:
            parent = self.hashes[-1] if have else chain_start(self.request.cache_salt)
            self.hashes += block_hashes(parent, tokens[have * block_tokens : count_blocks * block_tokens], block_tokens)
            known = len(self.prompt_chain)
            self.prompt_chain += self.hashes[known : len(self.prompt) // block_tokens]
        return self.hashes[:count_blocks]
