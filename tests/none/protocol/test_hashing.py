"""The block-hash chain."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tradewind.protocol.hashing import block_hashes, chain_start

Tokens = st.lists(st.integers(0, 2**31 - 1), max_size=40)


@given(Tokens, Tokens, st.integers(1, 9))
def test_hashes_are_equal_exactly_where_the_prefixes_are(first, second, block_tokens):
    a, b = np.array(first, np.int32), np.array(second, np.int32)
    hashes_a = block_hashes(chain_start(""), a, block_tokens)
    hashes_b = block_hashes(chain_start(""), b, block_tokens)
    for i, (hash_a, hash_b) in enumerate(zip(hashes_a, hashes_b, strict=False)):
        end = (i + 1) * block_tokens
        assert (hash_a == hash_b) == (first[:end] == second[:end])
    assert len(hashes_a) == len(first) // block_tokens


@given(Tokens, st.integers(1, 9))
def test_salts_share_nothing(tokens, block_tokens):
    ids = np.array(tokens, np.int32)
    ours, theirs = (block_hashes(chain_start(salt), ids, block_tokens) for salt in ("a", "b"))
    assert not set(ours) & set(theirs)
