"""Who waits, and who is next."""

from heapq import heappop, heappush
from itertools import count

from tradewind.scheduler.sequence import NEVER, Sequence


class Queue:
    """Sequences in order, with removal from the middle. Under FCFS the order is that of arrival already.

    Removed entries stay in the heaps until they come up or are more than half of them; a ticket tells who is current.
    """

    def __init__(self) -> None:
        self._by_order: list[tuple[tuple[int, int], int, Sequence]] = []
        self._by_arrival: list[tuple[tuple[int, int], int, Sequence]] = []
        self._tickets = count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, sequence: Sequence) -> None:
        """Put `sequence` in its place; it must not be in a queue."""
        assert sequence.ticket == NEVER
        ticket = sequence.ticket = next(self._tickets)
        heappush(self._by_order, (sequence.order, ticket, sequence))
        heappush(self._by_arrival, ((0, sequence.serial), ticket, sequence))
        self._size += 1

    def remove(self, sequence: Sequence) -> None:
        """Take `sequence`, which is in this queue, out of it."""
        sequence.ticket = NEVER
        self._size -= 1
        if len(self._by_order) > 2 * self._size + 64:
            self._by_order = sorted(entry for entry in self._by_order if entry[2].ticket == entry[1])
        if len(self._by_arrival) > 2 * self._size + 64:
            self._by_arrival = sorted(entry for entry in self._by_arrival if entry[2].ticket == entry[1])

    def first(self, *, by_arrival: bool = False) -> Sequence | None:
        """The next in order, or the one that arrived first; it stays in the queue."""
        if not self._size:
            return None
        heap = self._by_arrival if by_arrival else self._by_order
        while heap[0][2].ticket != heap[0][1]:
            heappop(heap)
        return heap[0][2]
