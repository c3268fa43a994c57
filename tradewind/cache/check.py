"""Proof of ownership, block by block. Counts prove nothing: two errors can cancel out in a sum."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tradewind.cache.prefix import PrefixCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]

TableKey = tuple[int, int]
"""(request id, life): a request that is preempted begins a new life with an empty table."""


class OwnershipError(AssertionError):
    """A block is owned by nobody, by too many, or by somebody who does not know."""


class OwnershipCheck:
    """Remembers the tables it saw, so that it can also tell when one changed other than by growing at its end."""

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._seen: dict[TableKey, Int32s] = {}

    def __call__(self, tables: "Mapping[TableKey, Int32s]") -> None:
        """Raises OwnershipError naming block and request. `tables`: the block table of every sequence that has one."""
        self._check_append_only(tables)
        self._check_states(tables)
        self._check_index()

    def _check_append_only(self, tables: "Mapping[TableKey, Int32s]") -> None:
        for key, table in tables.items():
            before = self._seen.get(key)
            if before is not None and not np.array_equal(before, table[: len(before)]):
                raise OwnershipError(f"the table of request {key[0]} (life {key[1]}) was {before}, became {table}")
        self._seen = {key: table.copy() for key, table in tables.items()}

    def _check_states(self, tables: "Mapping[TableKey, Int32s]") -> None:
        pool = self._cache.pool
        idle = np.fromiter(self._cache.idle_ids, np.int32)
        held = np.concatenate([np.zeros(0, np.int32), *tables.values()])
        holders, free = (
            np.bincount(held, minlength=pool.num_blocks),
            np.bincount(pool.free_ids, minlength=pool.num_blocks),
        )
        states = free + np.bincount(idle, minlength=pool.num_blocks) + (holders > 0)
        for block in np.flatnonzero((holders != pool.holders) | (states != 1)).tolist():
            owners = [request_id for (request_id, _), table in tables.items() for held in table if held == block]
            raise OwnershipError(
                f"block {block} counts {pool.holders[block]} holders, but is held by requests {owners}, "
                f"{free[block]}x free and {np.count_nonzero(idle == block)}x cached; exactly one of these must be"
            )
        for (request_id, _), table in tables.items():
            if len(np.unique(table)) < len(table):
                raise OwnershipError(f"a block appears twice in the table of request {request_id}: {table}")

    def _check_index(self) -> None:
        cache = self._cache
        published = cache.published
        for block_hash, block in published.items():
            if cache.hash_of(block) != block_hash:
                raise OwnershipError(f"block {block} is known as {block_hash.hex()}, but says {cache.hash_of(block)!r}")
        idle = set(cache.idle_ids)
        known = set(published.values())
        if not idle <= known:
            raise OwnershipError(f"blocks {sorted(idle - known)} are cached but cannot be found")
        held = set(cache.unfilled_ids) - idle
        if held:
            raise OwnershipError(f"blocks {sorted(held)} are known as cached and not full, but are not cached")
        lost = known & set(cache.pool.free_ids.tolist())
        if lost:
            raise OwnershipError(f"blocks {sorted(lost)} can be found, but are free")
