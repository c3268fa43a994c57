"""Sequences run through a model step by step, over pages: what a scheduler and a runner do, in a few lines."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tradewind.kernels.pages import KVPool
from tradewind.kernels.rows import Rows
from tradewind.models.decoder import Model


def make_rows(computed: list[int], new: list[int], tables: list[list[int]], block_tokens: int) -> Rows:
    """The index tensors of a step in which row r computes `new[r]` tokens after `computed[r]`.

    Entries past a row's context hold ids that no pool has, as a contract allows.
    """
    positions, write, starts = [], [], [0]
    for first, count, table in zip(computed, new, tables, strict=True):
        for position in range(first, first + count):
            positions.append(position)
            write.append(table[position // block_tokens] * block_tokens + position % block_tokens)
        starts.append(starts[-1] + count)
    contexts = [first + count for first, count in zip(computed, new, strict=True)]
    width = max((-(-context // block_tokens) for context in contexts), default=0) + 1
    table_RM = torch.full((len(tables), width), 2**30, dtype=torch.int32)
    for row, (table, context) in enumerate(zip(tables, contexts, strict=True)):
        used = -(-context // block_tokens)
        table_RM[row, :used] = torch.tensor(table[:used], dtype=torch.int32)
    return Rows(
        positions_T=torch.tensor(positions, dtype=torch.int32),
        write_T=torch.tensor(write, dtype=torch.int64),
        query_starts_R1=torch.tensor(starts, dtype=torch.int32),
        context_lens_R=torch.tensor(contexts, dtype=torch.int32),
        block_tables_RM=table_RM,
        max_query=max(new, default=0),
        max_context=max(contexts, default=0),
    )


@dataclass
class Sequence:
    """Token ids so far, how many of them are in the pool, and the blocks they are in."""

    tokens: list[int]
    computed: int = 0
    table: list[int] = field(default_factory=list)


class PagedModel:
    """A model with a pool full of NaN, whose blocks are handed out in a scattered order."""

    def __init__(
        self, model: Model, block_tokens: int = 16, num_blocks: int = 256, kv_dtype: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.block_tokens = block_tokens
        dtype = kv_dtype or model.spec.dtype
        self.pool = KVPool.allocate(model.spec.pool_shape(num_blocks, block_tokens), dtype)
        self.pool.blocks_BL2GSK.fill_(255 if dtype == torch.uint8 else torch.nan)  # four bytes of 255 are a NaN
        generator = torch.Generator().manual_seed(0)
        self._free = torch.randperm(num_blocks, generator=generator).tolist()

    def step(self, work: list[tuple[Sequence, int]]) -> list[Tensor]:
        """Compute the next `n` tokens of each sequence, in one step; their logits, float32 [n, V] each."""
        for sequence, count in work:
            needed = -(-(sequence.computed + count) // self.block_tokens)
            while len(sequence.table) < needed:
                sequence.table.append(self._free.pop())
        computed, new = [s.computed for s, _ in work], [n for _, n in work]
        rows = make_rows(computed, new, [s.table for s, _ in work], self.block_tokens)
        ids = [token for s, n in work for token in s.tokens[s.computed : s.computed + n]]
        hidden_TD = self.model.forward(torch.tensor(ids, dtype=torch.int32), rows, self.pool)
        for sequence, count in work:
            sequence.computed += count
        return list(self.model.logits(hidden_TD).split(new))

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """`count` tokens after `prompt`, each the most likely."""
        sequence = Sequence(list(prompt))
        logits_TV = self.step([(sequence, len(prompt))])[0]
        for _ in range(count):
            sequence.tokens.append(int(logits_TV[-1].argmax()))
            logits_TV = self.step([(sequence, 1)])[0]
        return sequence.tokens[len(prompt) :]
