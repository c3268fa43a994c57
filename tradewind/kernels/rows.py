"""Which tokens a step computes: the index tensors that the attention ops read."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The R sequences of a step, and its T tokens, packed without padding (legend in tradewind.kernels).

    Row r owns the tokens [query_starts_R1[r], query_starts_R1[r + 1]), at least one. They are the last ones of its
    context: token i of a row with n tokens has position context_lens_R[r] - n + i. A decode row has one token; a
    prefill chunk has several; both may be in one step, in any order.

    positions_T: int32 or int64, position of each token in its sequence.
    write_T: int64, the place of each token's key and value in the pool: block * block_tokens + offset. No two equal.
    query_starts_R1: int32, R + 1 entries, from 0 to T.
    context_lens_R: int32, tokens in the KV pool after this step's have been written, at least the row's own tokens.
    block_tables_RM: int32, the blocks of each row in order. Entries past the context are garbage, of any value.
    max_query, max_context: the largest number of tokens and the largest context of a row (0 if R is 0).
    All tensors are contiguous, except that rows of block_tables_RM may be strided.
    """

    positions_T: Tensor
    write_T: Tensor
    query_starts_R1: Tensor
    context_lens_R: Tensor
    block_tables_RM: Tensor
    max_query: int
    max_context: int


@dataclass(frozen=True)
class HeadShape:
    """How a qkv row divides: H query heads, then G key heads, then G value heads, each of head_dim K numbers.

    Query head h reads key-value head h // (heads // kv_heads).
    """

    heads: int
    kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        assert self.heads % self.kv_heads == 0, self

    @property
    def queries_per_kv(self) -> int:
        return self.heads // self.kv_heads

    @property
    def qkv_features(self) -> int:
        """C: the width of a qkv row."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim
