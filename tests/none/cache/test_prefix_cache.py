"""The books of the paged cache: who gets which block, what is found again, what goes first."""

import numpy as np
import pytest

from tradewind.cache import OwnershipCheck, OwnershipError, PrefixCache
from tradewind.protocol.hashing import block_hashes, chain_start, extend


def chain(*tokens: int, salt: str = "") -> list[bytes]:
    return block_hashes(chain_start(salt), np.array(tokens, np.int32), 1)


def publish(cache: PrefixCache, hashes: list[bytes]) -> np.ndarray:
    blocks = cache.take(len(hashes))
    for block_hash, block in zip(hashes, blocks.tolist(), strict=True):
        cache.publish(block_hash, block)
    return blocks


def test_hash_chain_tells_prefixes_and_salts_apart():
    assert chain(1, 2, 3) == chain(1, 2, 3)
    assert chain(1, 2)[1] != chain(2, 2)[1]
    assert set(chain(1, 2, salt="a")).isdisjoint(chain(1, 2, salt="b"))
    hashes = block_hashes(chain_start(""), np.arange(7, dtype=np.int32), 3)
    assert hashes == [
        one := extend(chain_start(""), np.array([0, 1, 2], np.int32)),
        extend(one, np.array([3, 4, 5], np.int32)),
    ]
    assert extend(chain_start(""), np.array([1, 2], np.int32)) != extend(chain_start(""), np.array([2, 1], np.int32))


def test_what_was_freed_last_is_given_first():
    cache = PrefixCache(8)
    first, second = cache.take(2), cache.take(2)
    cache.release(first)
    cache.release(second)
    assert cache.take(4).tolist() == [*second, *first]
    assert cache.take(4).tolist() == [4, 5, 6, 7], "untouched blocks come last, in order"


def test_free_blocks_are_given_before_cached_ones():
    cache = PrefixCache(4)
    cached = publish(cache, chain(1, 2))
    cache.release(cached)
    assert (cache.available_blocks, cache.cached_blocks) == (4, 2)
    assert set(cache.take(2).tolist()).isdisjoint(cached.tolist())
    assert cache.find(chain(1, 2)) == cached.tolist()


def test_least_recently_used_chain_goes_first_and_tail_before_head():
    cache = PrefixCache(4)
    old, new = publish(cache, chain(1, 2)), publish(cache, chain(5, 6))
    cache.release(old)
    cache.release(new)
    cache.hold(cache.find(chain(1, 2)))
    cache.release(old)  # now `new` is the older one
    assert cache.take(1).tolist() == [new[1]]
    assert cache.find(chain(5, 6)) == [new[0]]
    assert set(cache.take(2).tolist()) == {old[1], new[0]}
    assert cache.find(chain(1, 2)) == [old[0]]
    assert cache.take(1).tolist() == [old[0]]
    assert cache.available_blocks == 0
    assert cache.find(chain(1)) == []


def test_shared_block_stays_until_its_last_holder_leaves():
    cache = PrefixCache(2)
    blocks = publish(cache, chain(1))
    cache.hold(cache.find(chain(1)))
    cache.release(blocks)
    assert cache.available_blocks == 1
    cache.release(blocks)
    assert cache.available_blocks == 2


def test_same_content_twice_keeps_the_first_and_makes_it_recent():
    cache = PrefixCache(3)
    known = publish(cache, chain(1))
    cache.release(known)
    other = publish(cache, chain(9))
    twin = publish(cache, chain(1))
    cache.release(other)
    assert cache.find(chain(1)) == known.tolist()
    cache.publish(chain(1)[0], int(twin[0]))
    cache.release(twin)
    assert cache.cached_blocks == 2
    assert cache.pool.free_ids.tolist() == twin.tolist(), "the twin cannot be found, so it is free"


def test_twin_in_use_keeps_the_known_head_younger_than_its_tail():
    cache = PrefixCache(4)
    head, tail = chain(1, 2)
    known = publish(cache, [head])
    cache.release(known)
    table = cache.take(2)  # somebody computed the head again, and the tail after it
    cache.publish(head, int(table[0]))
    cache.publish(tail, int(table[1]))
    cache.release(table, [head, tail])
    cache.take(2)
    assert cache.find([head, tail]) == [known[0], table[1]], "two other blocks were free"
    cache.take(1)
    assert cache.find([head, tail]) == [known[0]], "the tail went first"


def test_a_twin_takes_the_place_of_a_head_that_went():
    cache = PrefixCache(3)
    head, tail = chain(1, 2)
    cache.release(publish(cache, [head]))
    table = cache.take(2)
    cache.publish(head, int(table[0]))
    cache.publish(tail, int(table[1]))
    cache.take(1)  # the known head goes
    assert cache.find([head, tail]) == []
    cache.release(table, [head, tail])
    assert cache.find([head, tail]) == table.tolist()
    OwnershipCheck(cache)({(1, 0): np.array([0], np.int32)})


def test_forgotten_blocks_are_not_found():
    cache = PrefixCache(4)
    blocks = publish(cache, chain(1, 2, 3))
    cache.forget(blocks[1:])
    assert cache.find(chain(1, 2, 3)) == [blocks[0]]
    cache.release(blocks)
    assert cache.cached_blocks == 1
    OwnershipCheck(cache)({})


def owned() -> tuple[PrefixCache, dict[tuple[int, int], np.ndarray], OwnershipCheck]:
    """Requests 1 and 2 share a block; request 1 has another; one block is cached."""
    cache = PrefixCache(6)
    shared = publish(cache, chain(1))
    own = cache.take(1)
    cache.hold(cache.find(chain(1)))
    cache.release(publish(cache, chain(7)))
    tables = {(1, 0): np.concatenate((shared, own)), (2, 0): shared.copy()}
    check = OwnershipCheck(cache)
    check(tables)
    return cache, tables, check


def test_check_names_a_block_that_leaked():
    _, tables, check = owned()
    del tables[1, 0]
    with pytest.raises(OwnershipError, match=r"block \d counts"):
        check(tables)


def test_check_sees_errors_that_cancel_out_in_the_count():
    cache, tables, check = owned()
    cache.pool.holders[tables[1, 0][1]] += 1
    cache.pool.holders[tables[1, 0][0]] -= 1
    with pytest.raises(OwnershipError, match="holders"):
        check(tables)


def test_check_sees_a_block_that_is_held_and_free():
    cache, tables, check = owned()
    cache.pool.push(tables[1, 0][1:])
    with pytest.raises(OwnershipError, match=r"block 1 .* 1x free"):
        check(tables)


def test_check_sees_a_table_that_changed_before_its_end():
    cache, tables, check = owned()
    check(tables)
    replaced = cache.take(1)
    cache.release(tables[1, 0][1:])
    tables[1, 0] = np.concatenate((tables[1, 0][:1], replaced))
    with pytest.raises(OwnershipError, match="the table of request 1"):
        check(tables)
    OwnershipCheck(cache)(tables)


def test_check_sees_a_block_twice_in_one_table():
    cache, tables, check = owned()
    cache.pool.holders[tables[2, 0][0]] += 1
    tables[2, 0] = np.concatenate((tables[2, 0], tables[2, 0]))
    with pytest.raises(OwnershipError, match="twice"):
        check(tables)


def test_check_sees_a_free_block_that_can_be_found():
    cache, tables, check = owned()
    cache.publish(chain(8)[0], int(cache.pool.free_ids[0]))
    with pytest.raises(OwnershipError, match="can be found, but are free"):
        check(tables)
