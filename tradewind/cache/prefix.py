"""The prefix cache: blocks found again by what they contain.

Every block is in exactly one of three states: free (on the pool's stack), cached (no holder, but its content has a
known hash and may be found again), or held by one or more sequences. `tradewind.cache.check` proves it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tradewind.cache.blocks import BlockPool
from tradewind.protocol.hashing import BlockHash, extend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]


class PrefixCache:
    """Gives, shares and takes back blocks; remembers the content of those nobody holds until their place is needed.

    Order of reuse: free blocks first (the most recently freed first), then cached blocks, least recently used first.
    A chain is released tail first, so that its tail is always older than its head and goes first: a head without its
    tail is still a useful prefix, a tail without its head can never be found.

    A sequence may leave its last block, which is not full, to be found by the tokens that it has. Whoever goes on from
    there writes into it, so that it is given to one only, who takes it out of the index.
    """

    def __init__(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self._block_of: dict[BlockHash, int] = {}
        self._hash_of: dict[int, BlockHash] = {}
        self._is_published = np.zeros(num_blocks, np.bool_)
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached blocks, least recently used first
        self._unfilled: set[int] = set()  # those of them that are not full

    @property
    def available_blocks(self) -> int:
        """How many `take` can give: free and cached."""
        return self.pool.free_blocks + len(self._idle)

    @property
    def cached_blocks(self) -> int:
        """Blocks without a holder whose content can be found."""
        return len(self._idle)

    @property
    def idle_ids(self) -> Iterable[int]:
        """The cached blocks, the first to be evicted first."""
        return self._idle.keys()

    @property
    def unfilled_ids(self) -> Iterable[int]:
        """Those of the cached blocks that are not full."""
        return self._unfilled

    @property
    def published(self) -> dict[BlockHash, int]:
        """Content hash -> block, for all blocks that can be found. Not to be changed by the caller."""
        return self._block_of

    def hash_of(self, block: int) -> BlockHash | None:
        """The hash under which `block` can be found, if it can be."""
        return self._hash_of.get(block)

    def take(self, count_blocks: int) -> "Int32s":
        """`count_blocks` blocks with unknown content and one holder each. There must be as many available."""
        missing = count_blocks - self.pool.free_blocks
        if missing > 0:
            self._evict(missing)
        return self.pool.pop(count_blocks)

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The blocks of the longest known prefix of a chain. They are not held yet."""
        found = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def find_unfilled(self, parent: BlockHash, tokens: "Int32s") -> tuple[int, int] | None:
        """A cached block that follows `parent` and holds as many as possible of `tokens` (fewer than a full block):
        its id, and how many. It is not held yet."""
        if self._unfilled:
            for count in range(len(tokens), 0, -1):
                block = self._block_of.get(extend(parent, tokens[:count]))
                if block in self._unfilled:
                    return block, count
        return None

    def claim(self, block: int) -> None:
        """`block` (from `find_unfilled`, and held) will hold more: it is found no more."""
        self._unfilled.remove(block)
        del self._block_of[self._hash_of.pop(block)]
        self._is_published[block] = False

    def idle_among(self, blocks: list[int]) -> int:
        """How many of `blocks` (from `find`) are available now and would not be once held."""
        return int(np.count_nonzero(self.pool.holders[blocks] == 0)) if blocks else 0

    def hold(self, blocks: list[int]) -> None:
        """One more holder for each of `blocks` (distinct, from `find`)."""
        ids = np.array(blocks, np.int32)
        for block in ids[self.pool.holders[ids] == 0].tolist():
            del self._idle[block]
        self.pool.holders[ids] += 1

    def publish(self, block_hash: BlockHash, block: int) -> None:
        """From now on `block`, which is held and whose content is final, can be found, unless its twin can already."""
        if self._block_of.setdefault(block_hash, block) == block:
            self._hash_of[block] = block_hash
            self._is_published[block] = True

    def forget(self, blocks: "Int32s") -> None:
        """None of `blocks` (held) can be found any more: their content is not to be trusted."""
        for block in blocks[self._is_published[blocks]].tolist():
            del self._block_of[self._hash_of.pop(block)]
        self._is_published[blocks] = False

    def release(self, blocks: "Int32s", hashes: Sequence[BlockHash] = (), unfilled: BlockHash | None = None) -> None:
        """A sequence lets go of its table `blocks` (distinct, in table order).

        `hashes`: those of the first blocks, as far as they may be found; `unfilled`: that of the tokens in the block
        after these, which is not full, if it is to be found. Where such a block has a twin that is cached,
        the twin counts as used now, so that it does not go before the blocks that follow it in the chain.
        """
        for index in np.flatnonzero(~self._is_published[blocks[: len(hashes)]]).tolist():
            self.publish(hashes[index], int(blocks[index]))
        if unfilled is not None and unfilled not in self._block_of:
            self.publish(unfilled, int(blocks[len(hashes)]))
            self._unfilled.add(int(blocks[len(hashes)]))
        holders = self.pool.holders
        holders[blocks] -= 1
        is_loose, is_published = holders[blocks] == 0, self._is_published[blocks]
        self.pool.push(blocks[is_loose & ~is_published][::-1])
        becomes_idle = is_loose & is_published
        for index in np.flatnonzero(becomes_idle | ~is_published)[::-1].tolist():
            if becomes_idle[index]:
                self._idle[int(blocks[index])] = None
            elif index < len(hashes):
                twin = self._block_of[hashes[index]]
                if twin in self._idle:
                    self._idle.move_to_end(twin)

    def _evict(self, count_blocks: int) -> None:
        evicted = [self._idle.popitem(last=False)[0] for _ in range(count_blocks)]
        for block in evicted:
            del self._block_of[self._hash_of.pop(block)]
        self._unfilled.difference_update(evicted)
        recycled = np.array(evicted, np.int32)
        self._is_published[recycled] = False
        self.pool.push(recycled)
