"""The block-hash chain: a block's identity is its tokens and everything before them.

hash_0 = H(salt), hash_i = H(hash_{i-1}, tokens of block i). Equal hashes mean equal prefixes, across requests,
processes and machines. H is BLAKE2b with 16 bytes: two different prefixes meeting by chance is out of the question, and
a tenant cannot construct a collision.
"""

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BlockHash = bytes


def chain_start(salt: str) -> BlockHash:
    """The parent of a sequence's first block. Requests with different salts never share a block."""
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=16, person=b"tradewind-salt").digest()


def extend(parent: BlockHash, tokens: "NDArray[np.int32]") -> BlockHash:
    """The hash of one full block (`tokens`: int32[block_tokens], contiguous) that follows `parent`."""
    return blake2b(tokens.tobytes(), digest_size=16, key=parent).digest()


def block_hashes(parent: BlockHash, tokens: "NDArray[np.int32]", block_tokens: int) -> list[BlockHash]:
    """The hashes of the full blocks of `tokens` (int32[n]), which follow `parent`. A partial block has none."""
    content, width = tokens.tobytes(), block_tokens * tokens.itemsize
    hashes = []
    for start in range(0, len(content) - width + 1, width):
        parent = blake2b(content[start : start + width], digest_size=16, key=parent).digest()
        hashes.append(parent)
    return hashes
