"""Sharing a prefix that is still being computed.

A running sequence promises the prompt blocks that it is going to compute. A waiting one whose next block is promised
is parked instead of computing the same again, and goes back to the queue when the promise is kept or withdrawn.

Only running sequences promise and only waiting ones are parked, so nobody can wait for himself or in a circle. If the
promising one stops moving for `PATIENCE_PLANS`, those who wait for it compute for themselves.
"""

from tradewind.protocol.hashing import BlockHash
from tradewind.scheduler.rows import Rows
from tradewind.scheduler.sequence import Sequence

PATIENCE_PLANS = 16


class Promises:
    """Which blocks will soon be in the prefix cache, and who waits for them."""

    def __init__(self) -> None:
        self._owner: dict[BlockHash, Sequence] = {}
        self._parked: dict[BlockHash, dict[int, Sequence]] = {}
        self._progress: dict[BlockHash, tuple[int, int]] = {}  # tokens computed by the owner, plans since they changed

    def __len__(self) -> int:
        """How many are parked."""
        return sum(map(len, self._parked.values()))

    @property
    def promised(self) -> int:
        """How many blocks are promised."""
        return len(self._owner)

    def promise(self, sequence: Sequence, hashes: list[BlockHash]) -> None:
        """`sequence` will compute these blocks."""
        for block_hash in hashes:
            if self._owner.setdefault(block_hash, sequence) is sequence:
                sequence.promised.append(block_hash)

    def awaited(self, hashes: list[BlockHash]) -> BlockHash | None:
        """The last of the blocks at the beginning of `hashes` that one sequence has promised, if any.

        Waiting for the last one and not the next one wakes a sequence once, and not with every chunk.
        """
        owner = self._owner.get(hashes[0]) if hashes else None
        if owner is None:
            return None
        last = hashes[0]
        for block_hash in hashes:
            if self._owner.get(block_hash) is not owner:
                break
            last = block_hash
        return last

    def park(self, sequence: Sequence, block_hash: BlockHash) -> None:
        """`sequence` waits for this block, which is promised."""
        sequence.parked_on = block_hash
        self._parked.setdefault(block_hash, {})[sequence.request_id] = sequence

    def unpark(self, sequence: Sequence) -> None:
        """`sequence` has ended while parked."""
        assert sequence.parked_on is not None
        group = self._parked[sequence.parked_on]
        del group[sequence.request_id]
        if not group:
            self._drop_group(sequence.parked_on)
        sequence.parked_on = None

    def keep(self, block_hash: BlockHash) -> list[Sequence]:
        """The block can be found from now on. Returns who waited for it."""
        self._owner.pop(block_hash, None)
        return self._wake(block_hash)

    def withdraw(self, sequence: Sequence) -> list[Sequence]:
        """`sequence` computes no more. Returns who waited for it."""
        woken = []
        for block_hash in sequence.promised:
            if self._owner.get(block_hash) is sequence:
                del self._owner[block_hash]
                woken += self._wake(block_hash)
        sequence.promised.clear()
        return woken

    def impatient(self, rows: Rows) -> list[Sequence]:
        """Called once a plan. Returns those who have waited too long for one that does not move."""
        woken = []
        for block_hash in list(self._parked):
            computed = int(rows.computed[self._owner[block_hash].slot])
            before, plans = self._progress.get(block_hash, (computed, 0))
            plans = plans + 1 if computed == before else 0
            self._progress[block_hash] = (computed, plans)
            if plans >= PATIENCE_PLANS:
                late = self._wake(block_hash)
                for sequence in late:
                    sequence.may_park = False
                woken += late
        return woken

    def _wake(self, block_hash: BlockHash) -> list[Sequence]:
        if block_hash not in self._parked:
            return []
        woken = list(self._parked[block_hash].values())
        self._drop_group(block_hash)
        for sequence in woken:
            sequence.parked_on = None
        return woken

    def _drop_group(self, block_hash: BlockHash) -> None:
        del self._parked[block_hash]
        self._progress.pop(block_hash, None)
