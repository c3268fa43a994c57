"""The paged KV cache's bookkeeping: who owns each block, and which prefixes can be reused. No torch."""
