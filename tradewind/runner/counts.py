"""How often each token was said, for the slots whose requests use presence or frequency penalties.

Legend: K rows of the table, V vocabulary, N slots of a call.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.runner.transfer import numbers


class OutputCounts:
    """A table with a row for each such slot, int32 [K, V]; it grows when a slot needs one and none is free."""

    def __init__(self, vocab: int, device: torch.device) -> None:
        self._table_KV = torch.empty(0, vocab, dtype=torch.int32, device=device)
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self._counted_until: dict[int, int] = {}

    @property
    def allocated_rows(self) -> int:
        """Slots that there is memory for."""
        return len(self._table_KV)

    def begin(self, slot: int, tokens: Tensor, prompt_tokens: int) -> None:
        """The slot has a new owner, which said tokens[prompt_tokens:] (int32) before."""
        if slot not in self._rows:
            self._rows[slot] = self._take()
        row_V = self._table_KV[self._rows[slot]].zero_()
        output = tokens[prompt_tokens:].long()
        row_V.index_add_(0, output, torch.ones_like(output, dtype=torch.int32))
        self._counted_until[slot] = len(tokens)

    def drop(self, slot: int) -> None:
        """The slot has a new owner without such penalties."""
        if slot in self._rows:
            self._free.append(self._rows.pop(slot))
            self._counted_until.pop(slot, None)  # not there if memory ran out as it began

    def count(self, slots: NDArray[np.int64], positions: NDArray[np.int64], tokens_N: Tensor) -> None:
        """Each of these slots said a token (int64) at a position. A position that comes again is not counted again."""
        fresh = []
        for index, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist(), strict=True)):
            if self._counted_until.get(slot, position + 1) <= position:
                self._counted_until[slot] = position + 1
                fresh.append(index)
        if fresh:
            flat = self._flat(
                slots[fresh], tokens_N[numbers(fresh, torch.int64, tokens_N.device)].unsqueeze(1)
            ).squeeze(1)
            self._table_KV.view(-1).index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))

    def of(self, slots: NDArray[np.int64], tokens_NL: Tensor) -> Tensor:
        """How often each slot said each of its tokens (int64 [N, L]), float32; 0 for slots that are not counted."""
        known = [self._rows.get(slot, -1) for slot in slots.tolist()]
        if max(known) < 0:
            return torch.zeros(tokens_NL.shape, device=tokens_NL.device)
        rows_N1 = numbers(known, torch.int64, tokens_NL.device).unsqueeze(1)
        counts_NL = self._table_KV[rows_N1.clamp(min=0), tokens_NL].float()
        return counts_NL * (rows_N1 >= 0)

    def _flat(self, slots: NDArray[np.int64], tokens_NL: Tensor) -> Tensor:
        rows = numbers([self._rows[slot] for slot in slots.tolist()], torch.int64, tokens_NL.device)
        return rows.unsqueeze(1) * self._table_KV.shape[1] + tokens_NL

    def _take(self) -> int:
        if not self._free:
            rows, vocab = self._table_KV.shape
            grown_KV = self._table_KV.new_empty(max(4, 2 * rows), vocab)
            grown_KV[:rows] = self._table_KV
            self._free = list(range(rows, len(grown_KV)))
            self._table_KV = grown_KV
        return self._free.pop()
