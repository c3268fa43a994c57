"""The paged KV cache's bookkeeping: who owns each block, and which prefixes can be reused. No torch."""

from tradewind.cache.blocks import BlockPool
from tradewind.cache.check import OwnershipCheck, OwnershipError
from tradewind.cache.prefix import PrefixCache

__all__ = ["BlockPool", "OwnershipCheck", "OwnershipError", "PrefixCache"]
