"""One step's rows as the host writes them and the device reads them: a few columns, one copy.

Legend: R rows of the step, N rows that sample; both padded to the runner's slots.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.host_copy import HostCopy
from tradewind.kernels.sample import DrawColumns
from tradewind.kernels.sample.random import uniforms
from tradewind.kernels.step_inputs import RowColumns
from tradewind.protocol.plan import StepPlan
from tradewind.runner.state import StateRows

IN_FLIGHT = 3  # steps whose columns the host may have written before the device has read the first


@dataclass(frozen=True)
class _Column:
    name: str
    dtype: str
    more: int = 0  # entries beyond one for each slot
    is_one: bool = False  # a number of the step

    def count(self, slots: int) -> int:
        return 1 if self.is_one else slots + self.more

    def nbytes(self, slots: int) -> int:
        return -(-self.count(slots) * np.dtype(self.dtype).itemsize // 16) * 16


_COLUMNS = (
    _Column("slots", "int32"),
    _Column("computed", "int32"),
    _Column("starts", "int32", 1),
    _Column("last", "int64"),  # the token whose hidden state each sampling row goes on from
    _Column("count", "int32", is_one=True),  # rows that sample
    _Column("turn", "int32", is_one=True),  # which of the host's rows is told what was drawn
    _Column("drawn_slots", "int32"),
    _Column("drawn_positions", "int32"),
    _Column("temperature", "float32"),
    _Column("top_k", "int32"),
    _Column("top_p", "float32"),
    _Column("min_p", "float32"),
    _Column("uniforms", "float64"),
    _Column("blocks", "int32", is_one=True),
    _Column("block_places", "int64"),
    _Column("block_ids", "int32"),
)


@dataclass(frozen=True, slots=True)
class StepShape:
    """What the host knows of a step.

    `starts_R`: each row's first token. `slots_N`, `positions_N`: where drawn tokens go. `turn`: see `fill`.
    """

    tokens: int
    rows: int
    max_query: int
    starts_R: NDArray[np.int64]
    slots_N: NDArray[np.int64]
    positions_N: NDArray[np.int64]
    turn: int


class StepColumns:
    """The device's columns keep their place. The host's are a ring, in which both take turns.

    A step's first kernel copies the columns (`send`), recorded with the rest of the step, so that nothing is launched
    beside it: the device knows itself whose turn it is.
    """

    def __init__(self, slots: int, device: torch.device, host_copy: HostCopy) -> None:
        self._slots, self._device, self._copy = slots, device, host_copy
        nbytes = sum(column.nbytes(slots) for column in _COLUMNS)
        self._ring = torch.zeros(IN_FLIGHT, nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._arrays = [_views(row, slots) for row in self._ring]
        self._turn_1 = torch.zeros(1, dtype=torch.int32, device=device)
        self._bytes = torch.zeros(nbytes, dtype=torch.uint8, device=device)
        self._views = {
            name: self._bytes[place].view(getattr(torch, dtype)) for name, (place, dtype) in _layout(slots).items()
        }

    @property
    def rows(self) -> RowColumns:
        """As the step's inputs are made from; all slots long."""
        names = ("slots", "computed", "starts", "blocks", "block_places", "block_ids")
        return RowColumns(*(self._views[name] for name in names))

    @property
    def last_N(self) -> Tensor:
        """int64: the token that each sampling row goes on from; 0 past them."""
        return self._views["last"]

    @property
    def draw(self) -> DrawColumns:
        """As tokens are drawn by; all slots long."""
        where = ("count", "turn", "drawn_slots", "drawn_positions")
        how = ("temperature", "top_k", "top_p", "min_p", "uniforms")
        return DrawColumns(*(self._views[name] for name in where + how))

    def has_room(self, blocks: int) -> bool:
        """Whether so many new blocks can be sent with a step."""
        return blocks <= self._slots

    def fill(self, plan: StepPlan, state: StateRows, block_places_B: NDArray[np.int64], turn: int) -> StepShape:
        """Write the plan's columns, for `send`. `state` must have taken over what the plan brings.

        block_places_B: where in the slots' tables the plan's new blocks go; they are sent too if there is room for
        them. `turn`: which of the host's rows has the columns, and is told what was drawn. The device is through with
        it, and it follows that of the step before.
        """
        count = len(plan.slots)
        ends_R = np.cumsum(plan.new_tokens, dtype=np.int64)
        contexts_R = plan.computed_tokens.astype(np.int64) + plan.new_tokens
        sampled = np.flatnonzero(plan.sample)
        slots_N, positions_N = plan.slots[sampled].astype(np.int64), contexts_R[sampled]
        into = self._arrays[turn]
        into["slots"][:count] = plan.slots
        into["computed"][:count] = plan.computed_tokens
        into["starts"][0] = 0
        into["starts"][1 : count + 1] = ends_R
        into["starts"][count + 1 :] = ends_R[-1]
        drawn = len(sampled)
        into["count"][0] = drawn
        into["last"][:drawn] = ends_R[sampled] - 1
        into["last"][drawn:] = 0
        into["drawn_slots"][:drawn] = slots_N
        into["drawn_positions"][:drawn] = positions_N
        temperature_N = state.temperature_S[slots_N]
        into["temperature"][:drawn] = temperature_N
        if temperature_N.any():
            into["top_k"][:drawn] = state.top_k_S[slots_N]
            into["top_p"][:drawn] = state.top_p_S[slots_N]
            into["min_p"][:drawn] = state.min_p_S[slots_N]
            into["uniforms"][:drawn] = uniforms(state.keys_S[slots_N], positions_N)
        into["turn"][0] = turn
        blocks = len(block_places_B) if self.has_room(len(block_places_B)) else 0
        into["blocks"][0] = blocks
        into["block_places"][:blocks] = block_places_B[:blocks]
        into["block_ids"][:blocks] = plan.block_ids[:blocks]
        starts_R = ends_R - plan.new_tokens
        return StepShape(int(ends_R[-1]), count, int(plan.new_tokens.max()), starts_R, slots_N, positions_N, turn)

    def send(self) -> None:
        """Have the device copy the columns whose turn it is: a part of each step's work."""
        self._copy(self._ring.view(torch.int64), self._turn_1, self._bytes.view(torch.int64))

    def clear(self) -> None:
        """Steps without rows, for recording. The device must be through with all others."""
        self._ring.zero_()
        self.send()

    def set_turn(self, turn: int) -> None:
        """The step that is sent next is filled in there: for when work was sent, or failed, whose turns nobody took."""
        self._turn_1.fill_(turn)


def _layout(slots: int) -> dict[str, tuple[slice, str]]:
    """Which bytes each column has, and their type."""
    found: dict[str, tuple[slice, str]] = {}
    first = 0
    for column in _COLUMNS:
        used = column.count(slots) * np.dtype(column.dtype).itemsize
        found[column.name] = (slice(first, first + used), column.dtype)
        first += column.nbytes(slots)
    return found


def _views(buffer: Tensor, slots: int) -> dict[str, NDArray[Any]]:
    whole = buffer.numpy()
    return {name: whole[place].view(dtype) for name, (place, dtype) in _layout(slots).items()}
