"""Who has a slot and blocks: admission, preemption, departure, and what of their work others may share.

When may a block be shared? Only once a step that computed its last token has been applied. A step issued earlier would
do for the order of reads and writes, since a device executes steps in order; but only an applied step is known not to
have failed for that row, and a row that was preempted or ended between issue and apply has given the block to somebody
else by then. The price is that a sharer waits for one step more.

Giving blocks back needs no such wait: a step in flight that still writes into a freed block runs before any step that
the next owner is part of, and that owner reads nothing that it did not write. A published block is never written again,
because a sequence writes only at and after its first uncomputed position, and hits end before that.
"""

from bisect import insort
from enum import Enum
from typing import TYPE_CHECKING

from tradewind.cache.prefix import PrefixCache
from tradewind.protocol.hashing import BlockHash, chain_start, extend
from tradewind.protocol.plan import RunnerInfo
from tradewind.scheduler.queue import Queue
from tradewind.scheduler.rows import Rows
from tradewind.scheduler.sequence import NEVER, NO_SLOT, Sequence, State
from tradewind.scheduler.sharing import Promises

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]

OLDEST_EVERY = 8
"""Every so many admissions, the one that arrived first is admitted, whatever its priority: nobody starves."""
MERCY_EVERY = 4
"""Every so many preemptions, a sequence becomes more important by one priority: nobody is stopped for ever."""
SPARE_SHARE = 16
"""Admission leaves one block free for each running sequence to grow, but not more than this part of the pool."""


class Verdict(Enum):
    """What became of an attempt to admit."""

    ADMITTED = "admitted"
    PARKED = "parked"
    NO_ROOM = "no room"


class Residents:
    """The sequences, their slots and their blocks."""

    def __init__(self, info: RunnerInfo, max_running: int, *, shares_prefixes: bool, has_priorities: bool) -> None:
        self.block_tokens = info.block_tokens
        self.cache = PrefixCache(info.num_blocks)
        self.rows = Rows(info, max_running)
        self.by_slot: list[Sequence | None] = [None] * max_running
        self.prefills: list[Sequence] = []  # running, with known tokens to compute, in order
        self.waiting = Queue()  # have never run
        self.preempted = Queue()
        self.promises = Promises()
        self.departures = 0
        self._admissions = 0
        self.query_tokens = 0
        self.hit_tokens = 0
        self._shares_prefixes = shares_prefixes
        self._ages = has_priorities
        self._spare_limit_blocks = info.num_blocks // SPARE_SHARE

    def running(self) -> list[Sequence]:
        """Those that take part in steps, in order of slots."""
        return [sequence for sequence in self.by_slot if sequence is not None and sequence.is_running]

    def queued(self) -> int:
        """Those that have never run: waiting and parked."""
        return len(self.waiting) + len(self.promises)

    def next_in_line(self) -> tuple[Queue, Sequence] | None:
        """Who should run next. A preempted one has its slot already; another needs a free one."""
        by_arrival = self._admissions % OLDEST_EVERY == OLDEST_EVERY - 1
        queue = self.preempted
        sequence = queue.first(by_arrival=by_arrival)
        newcomer = self.waiting.first(by_arrival=by_arrival) if self.rows.free_slots else None
        if newcomer is not None and (sequence is None or _is_before(newcomer, sequence, by_arrival)):
            queue, sequence = self.waiting, newcomer
        return None if sequence is None else (queue, sequence)

    def admit(self, queue: Queue, sequence: Sequence) -> Verdict:
        """Let `sequence`, the first of `queue`, run, if there is room and nobody is computing its prefix already."""
        if sequence.state is State.WAITING:
            sequence.known_tokens = len(sequence.prompt)
        reusable = self._reusable_hashes(sequence)
        hits = self.cache.find(reusable)
        awaited = self.promises.awaited(reusable[len(hits) :]) if sequence.may_park else None
        if awaited is not None:
            queue.remove(sequence)
            self.promises.park(sequence, awaited)
            sequence.state = State.PARKED if sequence.slot == NO_SLOT else State.PREEMPTED
            return Verdict.PARKED
        unfilled = self._find_unfilled(sequence, len(hits))
        held = hits if unfilled is None else [*hits, unfilled[0]]
        if not self._has_room(sequence, held):
            return Verdict.NO_ROOM
        hit_tokens = len(hits) * self.block_tokens + (0 if unfilled is None else unfilled[1])
        queue.remove(sequence)
        self._admissions += 1
        if sequence.slot == NO_SLOT:
            self.rows.settle(sequence)
            self.by_slot[sequence.slot] = sequence
            self.query_tokens += sequence.known_tokens
            self.hit_tokens += hit_tokens
        self._begin_life(sequence, held, hit_tokens)
        return Verdict.ADMITTED

    def grow(self, sequence: Sequence, tokens: int) -> int:
        """Give `sequence` blocks for `tokens` more, or for as many as there is room for; returns that number."""
        slot, rows = sequence.slot, self.rows
        computed, capacity = int(rows.computed[slot]), int(rows.capacity[slot])
        missing = -(-(computed + tokens - capacity) // self.block_tokens)
        missing = min(missing, self.cache.available_blocks)
        if missing > 0:
            rows.append_blocks(slot, self.cache.take(missing))
            capacity = int(rows.capacity[slot])
        return min(tokens, capacity - computed)

    def start_decoding(self, sequence: Sequence) -> None:
        """All its known tokens are computed or in a step that was issued."""
        self.prefills.remove(sequence)
        sequence.state = State.DECODE
        self.rows.set_decoding(sequence.slot, True)

    def preempt(self, sequence: Sequence, applied_tokens: int) -> None:
        """Take its blocks away; it keeps slot and tokens, and goes back to the queue. Its tokens are known to be one
        more than computed once it has drawn one: that one may be in flight, and counts."""
        if sequence.state is State.DECODE:
            sequence.known_tokens = int(self.rows.computed[sequence.slot]) + 1
        self._end_life(sequence, applied_tokens, is_sound=True)
        sequence.state = State.PREEMPTED
        sequence.lives += 1
        if self._ages and sequence.lives % MERCY_EVERY == 0:
            sequence.order = (sequence.order[0] - 1, sequence.serial)
        self.preempted.push(sequence)

    def depart(self, sequence: Sequence, applied_tokens: int, *, is_sound: bool = True) -> None:
        """`sequence` is over, wherever it is. Unless `is_sound`, nothing that it computed is shared any more."""
        if sequence.parked_on is not None:
            self.promises.unpark(sequence)
        elif sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is State.PREEMPTED:
            self.preempted.remove(sequence)
        if sequence.is_running:
            self._end_life(sequence, applied_tokens, is_sound)
        if sequence.slot != NO_SLOT:
            self.by_slot[sequence.slot] = None
            self.rows.vacate(sequence.slot)
            self.departures += 1
        sequence.state = State.DONE

    def publish(self, sequence: Sequence, applied_tokens: int) -> None:
        """Share the full blocks among the first `applied_tokens` tokens, which an applied step has computed."""
        full_blocks = applied_tokens // self.block_tokens
        if not self._shares_prefixes or full_blocks <= sequence.published_blocks:
            return
        hashes = sequence.chain(self.rows.tokens[sequence.slot], full_blocks, self.block_tokens)
        table = self.rows.table(sequence.slot).tolist()
        for index in range(sequence.published_blocks, full_blocks):
            self.cache.publish(hashes[index], table[index])
            if self.promises.promised:
                self.wake(self.promises.keep(hashes[index]))
        sequence.published_blocks = full_blocks

    def wake(self, sequences: list[Sequence]) -> None:
        """Back to their queue with those that were parked."""
        for sequence in sequences:
            if sequence.slot == NO_SLOT:
                sequence.state = State.WAITING
                self.waiting.push(sequence)
            else:
                self.preempted.push(sequence)

    def _reusable_hashes(self, sequence: Sequence) -> list[BlockHash]:
        """Hashes of the blocks that `sequence` may take from the cache. At least its last known token is computed, to
        draw the next from; and positions whose prompt logprobs are still to be delivered are computed too."""
        if not self._shares_prefixes:
            return []
        return self._chain(sequence, _reusable_tokens(sequence) // self.block_tokens)

    def _chain(self, sequence: Sequence, count_blocks: int) -> list[BlockHash]:
        return sequence.chain(self._tokens_of(sequence), count_blocks, self.block_tokens)

    def _tokens_of(self, sequence: Sequence) -> "Int32s":
        return sequence.prompt if sequence.slot == NO_SLOT else self.rows.tokens[sequence.slot]

    def _find_unfilled(self, sequence: Sequence, count_blocks: int) -> tuple[int, int] | None:
        """A block that is not full, and how many tokens it has of those that follow the first `count_blocks` blocks."""
        if not self._shares_prefixes:
            return None
        start = count_blocks * self.block_tokens
        end = min(_reusable_tokens(sequence), start + self.block_tokens - 1)
        return self.cache.find_unfilled(self._parent(sequence, count_blocks), self._tokens_of(sequence)[start:end])

    def _parent(self, sequence: Sequence, count_blocks: int) -> BlockHash:
        """What the block after the first `count_blocks` follows."""
        if not count_blocks:
            return chain_start(sequence.request.cache_salt)
        return self._chain(sequence, count_blocks)[-1]

    def _has_room(self, sequence: Sequence, hits: list[int]) -> bool:
        """Whether all its known tokens and the first new one fit, beside what running prompts have still to take."""
        block_tokens = self.block_tokens
        needed = min(sequence.known_tokens // block_tokens + 1, -(-(sequence.limit_tokens - 1) // block_tokens))
        needed += self.cache.idle_among(hits) - len(hits)
        owed = sum(
            max(0, -(-(prefill.known_tokens - int(self.rows.capacity[prefill.slot])) // block_tokens))
            for prefill in self.prefills
        )
        running = self.rows.count_decoding + len(self.prefills)
        spare = min(running, self._spare_limit_blocks)
        return needed + owed + spare <= self.cache.available_blocks

    def _begin_life(self, sequence: Sequence, held: list[int], hit_tokens: int) -> None:
        """`held`: blocks from the cache with its first `hit_tokens` tokens; the last of them need not be full."""
        sequence.state = State.PREFILL
        sequence.life_step = NEVER
        sequence.sent_blocks = 0
        sequence.published_blocks = hit_tokens // self.block_tokens
        sequence.may_park = True
        if held:
            self.cache.hold(held)
            if hit_tokens % self.block_tokens:
                self.cache.claim(held[-1])
            self.rows.append_blocks(sequence.slot, held)
            self.rows.computed[sequence.slot] = hit_tokens
        if self._shares_prefixes:
            chain = self._chain(sequence, sequence.known_tokens // self.block_tokens)
            self.promises.promise(sequence, chain[sequence.published_blocks :])
        insort(self.prefills, sequence, key=lambda prefill: prefill.order)

    def _end_life(self, sequence: Sequence, applied_tokens: int, is_sound: bool) -> None:
        table = self.rows.table(sequence.slot)
        if is_sound:
            self.publish(sequence, applied_tokens)
            hashes = sequence.hashes[: sequence.published_blocks]
            self.cache.release(table, hashes, self._unfilled_hash(sequence, applied_tokens))
        else:
            self.cache.forget(table)
            self.cache.release(table)
        self.wake(self.promises.withdraw(sequence))
        if sequence.state is State.PREFILL:
            self.prefills.remove(sequence)
        self.rows.clear(sequence.slot)

    def _unfilled_hash(self, sequence: Sequence, applied_tokens: int) -> BlockHash | None:
        """By what its last block, which is not full, may be found.

        Whoever asks for one token after a text, as a beam search does, is likely to ask for another after both.
        """
        start = sequence.published_blocks * self.block_tokens
        is_likely = self._shares_prefixes and sequence.request.max_tokens == 1
        if not is_likely or not start < applied_tokens < start + self.block_tokens:
            return None
        tokens = self.rows.tokens[sequence.slot, start:applied_tokens]
        return extend(self._parent(sequence, sequence.published_blocks), tokens)


def _reusable_tokens(sequence: Sequence) -> int:
    """How many of its first tokens `sequence` may take from the cache, as `_reusable_hashes` says."""
    most = sequence.known_tokens - 1
    if sequence.request.sampling.prompt_logprobs is not None:
        most = min(most, sequence.next_prompt_logprob - 1)
    return most


def _is_before(one: Sequence, other: Sequence, by_arrival: bool) -> bool:
    return one.serial < other.serial if by_arrival else one.order < other.order
