"""The state of all slots, in columns: a steady decode step touches these with a few vector operations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tradewind.protocol.plan import RunnerInfo
from tradewind.scheduler.sequence import Sequence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]
    Int64s = NDArray[np.int64]
    Bools = NDArray[np.bool_]

STOP_COLUMNS = 4
"""Stop ids per slot that are compared in vector form; sequences with more have the others in a set."""
NO_REQUEST = -1
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Group:
    """Rows and the columns that stay the same while the rows do. All arrays have one entry a row."""

    slots: "Int32s"
    request_ids: "Int64s"
    last_tokens: "Int32s"  # position of the last token that may be said
    first_stop: "Int32s"  # the position from which a stop token ends the sequence
    stops: tuple["Int32s", ...]  # the stop ids, a column each; as many columns as any of the rows needs
    ones: "Int32s"
    trues: "Bools"
    has_more_stops: bool
    masked: "Int32s"  # which rows may draw only what a mask allows

    def __len__(self) -> int:
        return len(self.slots)


class Rows:
    """Columns by slot. `tokens` and `tables` are wide, but only the parts that are used become resident memory."""

    def __init__(self, info: RunnerInfo, max_running: int) -> None:
        self.block_tokens = info.block_tokens
        self._vocab_size = info.vocab_size
        max_blocks = -(-info.max_model_len // info.block_tokens)
        self.request_ids: Int64s = np.full(max_running, NO_REQUEST, np.int64)
        self.computed: Int32s = np.zeros(max_running, np.int32)  # by all steps issued, in this life
        self.capacity: Int32s = np.zeros(max_running, np.int32)  # tokens that fit its blocks
        self.is_decoding: Bools = np.zeros(max_running, np.bool_)
        self._is_held: Bools = np.zeros(max_running, np.bool_)
        self.tokens: Int32s = np.zeros((max_running, info.max_model_len), np.int32)
        self.tables: Int32s = np.zeros((max_running, max_blocks), np.int32)
        self._last_tokens: Int32s = np.zeros(max_running, np.int32)
        self._first_stop: Int32s = np.zeros(max_running, np.int32)
        self._stops: Int32s = np.full((max_running, STOP_COLUMNS), NO_TOKEN, np.int32)
        self.more_stops: dict[int, frozenset[int]] = {}
        self._is_masked: Bools = np.zeros(max_running, np.bool_)
        self._free_slots = list(range(max_running - 1, -1, -1))  # lowest on top: high slots stay untouched
        self._decoding: Group | None = None

    @property
    def free_slots(self) -> int:
        """How many slots have no owner."""
        return len(self._free_slots)

    def settle(self, sequence: Sequence) -> None:
        """Give `sequence` a slot for the rest of its life, and fill its columns."""
        slot = sequence.slot = self._free_slots.pop()
        request = sequence.request
        self.request_ids[slot] = request.request_id
        self.tokens[slot, : len(sequence.prompt)] = sequence.prompt
        self._last_tokens[slot] = sequence.limit_tokens - 1
        self._first_stop[slot] = len(sequence.prompt) + min(request.sampling.min_tokens, request.max_tokens)
        self._is_masked[slot] = request.grammar is not None and request.grammar.masks_at_once
        self._is_held[slot] = sequence.is_held
        stops = [token for token in request.stop_token_ids if 0 <= token < self._vocab_size]
        self._stops[slot] = NO_TOKEN
        self._stops[slot, : min(len(stops), STOP_COLUMNS)] = stops[:STOP_COLUMNS]
        if len(stops) > STOP_COLUMNS:
            self.more_stops[slot] = frozenset(stops[STOP_COLUMNS:])

    def vacate(self, slot: int) -> None:
        """The slot's owner is gone for good."""
        self.request_ids[slot] = NO_REQUEST
        self.more_stops.pop(slot, None)
        self._free_slots.append(slot)

    def clear(self, slot: int) -> None:
        """The slot's life ends: nothing computed, no block, out of the decode group."""
        self.computed[slot] = 0
        self.capacity[slot] = 0
        self.set_decoding(slot, False)

    def set_decoding(self, slot: int, is_decoding: bool) -> None:
        """Whether the slot takes part in every step with one token, unless it is held."""
        if self.is_decoding[slot] != is_decoding:
            self.is_decoding[slot] = is_decoding
            self._decoding = None

    def set_held(self, slot: int, is_held: bool) -> None:
        """Whether the slot is left out of steps for now."""
        self._is_held[slot] = is_held
        self._decoding = None

    def set_masked(self, slot: int, is_masked: bool) -> None:
        """Whether the slot may draw only what a mask allows."""
        self._is_masked[slot] = is_masked
        self._decoding = None

    @property
    def count_decoding(self) -> int:
        """How many rows decode, those that are held among them."""
        return int(np.count_nonzero(self.is_decoding))

    def table(self, slot: int) -> "Int32s":
        """The blocks of a slot (a view)."""
        return self.tables[slot, : int(self.capacity[slot]) // self.block_tokens]

    def append_blocks(self, slot: int, blocks: "Int32s | list[int]") -> None:
        """Let the table of `slot` grow."""
        start = int(self.capacity[slot]) // self.block_tokens
        self.tables[slot, start : start + len(blocks)] = blocks
        self.capacity[slot] += len(blocks) * self.block_tokens

    def last_token(self, slot: int) -> int:
        """The position of the last token that the slot may say."""
        return int(self._last_tokens[slot])

    def decoding(self) -> Group:
        """The decoding rows that are not held, in order of slots; the same object as long as the rows are the same."""
        if self._decoding is None:
            self._decoding = self.group(np.flatnonzero(self.is_decoding & ~self._is_held).astype(np.int32))
        return self._decoding

    def group(self, slots: "Int32s") -> Group:
        """Gather the constant columns of `slots`."""
        stops = self._stops[slots]
        width = int((stops != NO_TOKEN).any(axis=0).sum())
        return Group(
            slots=slots,
            request_ids=self.request_ids[slots],
            last_tokens=self._last_tokens[slots],
            first_stop=self._first_stop[slots],
            stops=tuple(np.ascontiguousarray(stops[:, column]) for column in range(width)),
            ones=np.ones(len(slots), np.int32),
            trues=np.ones(len(slots), np.bool_),
            has_more_stops=bool(self.more_stops) and not self.more_stops.keys().isdisjoint(slots.tolist()),
            masked=np.flatnonzero(self._is_masked[slots]).astype(np.int32),
        )
