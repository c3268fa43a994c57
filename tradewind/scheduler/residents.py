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

from tradewind.cache.prefix import PrefixCache
from tradewind.protocol.hashing import BlockHash
from tradewind.protocol.plan import RunnerInfo
from tradewind.scheduler.queue import Queue
from tradewind.scheduler.rows import Rows
from tradewind.scheduler.sequence import NEVER, NO_SLOT, Sequence, State
from tradewind.scheduler.sharing import Promises

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
        if not self._has_room(sequence, hits):
            return Verdict.NO_ROOM
        queue.remove(sequence)
        self._admissions += 1
        if sequence.slot == NO_SLOT:
            self.rows.settle(sequence)
            self.by_slot[sequence.slot] = sequence
            self.query_tokens += sequence.known_tokens
            self.hit_tokens += len(hits) * self.block_tokens
        self._begin_life(sequence, hits)
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
        reusable_tokens = sequence.known_tokens - 1
        if sequence.request.sampling.prompt_logprobs is not None:
            reusable_tokens = min(reusable_tokens, sequence.next_prompt_logprob - 1)
        return self._chain(sequence, reusable_tokens // self.block_tokens)

    def _chain(self, sequence: Sequence, count_blocks: int) -> list[BlockHash]:
        tokens = sequence.prompt if sequence.slot == NO_SLOT else self.rows.tokens[sequence.slot]
        return sequence.chain(tokens, count_blocks, self.block_tokens)

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

    def _begin_life(self, sequence: Sequence, hits: list[int]) -> None:
        sequence.state = State.PREFILL
        sequence.life_step = NEVER
        sequence.sent_blocks = 0
        sequence.published_blocks = len(hits)
        sequence.may_park = True
        if hits:
            self.cache.hold(hits)
            self.rows.append_blocks(sequence.slot, hits)
            self.rows.computed[sequence.slot] = len(hits) * self.block_tokens
        if self._shares_prefixes:
            chain = self._chain(sequence, sequence.known_tokens // self.block_tokens)
            self.promises.promise(sequence, chain[len(hits) :])
        insort(self.prefills, sequence, key=lambda prefill: prefill.order)

    def _end_life(self, sequence: Sequence, applied_tokens: int, is_sound: bool) -> None:
        table = self.rows.table(sequence.slot)
        if is_sound:
            self.publish(sequence, applied_tokens)
            self.cache.release(table, sequence.hashes[: sequence.published_blocks])
        else:
            self.cache.forget(table)
            self.cache.release(table)
        self.wake(self.promises.withdraw(sequence))
        if sequence.state is State.PREFILL:
            self.prefills.remove(sequence)
        self.rows.clear(sequence.slot)


def _is_before(one: Sequence, other: Sequence, by_arrival: bool) -> bool:
    return one.serial < other.serial if by_arrival else one.order < other.order
