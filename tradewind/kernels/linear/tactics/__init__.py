"""How products of few rows are launched: tables that were measured once per kind of GPU and are shipped.

Nothing is searched for while serving. `tradewind bench gpu --parts tune` measures a new table for a model's shapes.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar


@dataclass(frozen=True)
class Tactic:
    """How a product of few rows is launched: outputs of a program, inputs at a time, and how it is pipelined.

    `rows_first`: the rows are the tall operand of the tensor cores, else the weights are.
    """

    outputs: int = 32
    inputs: int = 256
    warps: int = 4
    stages: int = 4
    rows_first: bool = False


@dataclass(frozen=True)
class Measured:
    """The fastest tactic for up to `rows` rows of a shape, and the vendor's product beside it."""

    bits: int
    rows: int
    outputs: int
    inputs: int
    tactic: Tactic
    us: float
    vendor_us: float


@dataclass(frozen=True)
class FusedTactic:
    """How a fused product is launched: outputs and rows of a program, inputs at a time, and how it is pipelined."""

    outputs: int
    rows: int
    inputs: int
    warps: int
    stages: int


@dataclass(frozen=True)
class MeasuredFused:
    """The fastest tactic for up to `rows` rows of a weight in this layout (int4: with any groups).

    With one row a program has no tensor cores and no stages: see tradewind.kernels.fused_linear.vector.
    """

    layout: str
    rows: int
    outputs: int
    inputs: int
    normed: bool
    gated: bool
    tactic: FusedTactic
    us: float


@dataclass(frozen=True)
class ChainedTactic:
    """How a chained product is launched: outputs and rows of a tile, inputs at a time, and how it is pipelined.

    `programs`: on each multiprocessor, which share the tiles' steps out among themselves; 0: one for each tile.
    `rows_first`: the rows are the tall operand of the tensor cores, else the weights are.
    """

    outputs: int
    rows: int
    inputs: int
    warps: int
    stages: int
    programs: int
    rows_first: bool = False


@dataclass(frozen=True)
class MeasuredChained:
    """The fastest tactic for up to `rows` rows of a weight in this layout (int4: with any groups)."""

    layout: str
    rows: int
    outputs: int
    inputs: int
    gated: bool
    tactic: ChainedTactic
    us: float


@dataclass(frozen=True)
class Tactics:
    """A table, and where it comes from: `about` names the GPU and the versions it was measured with."""

    about: str
    entries: tuple[Measured, ...]
    fused: tuple[MeasuredFused, ...] = ()
    chained: tuple[MeasuredChained, ...] = ()

    @classmethod
    def shipped(cls) -> "Tactics":
        """The table that comes with the package: measured on Hopper, and the best guess for other chips."""
        return cls.parse(json.loads((Path(__file__).parent / "sm_90.json").read_text()))

    @classmethod
    def parse(cls, table: dict[str, Any]) -> "Tactics":
        """From a file's content."""
        entries = tuple(Measured(**{**entry, "tactic": Tactic(**entry["tactic"])}) for entry in table["linear"])
        fused = tuple(MeasuredFused(**{**entry, "tactic": FusedTactic(**entry["tactic"])}) for entry in table["fused"])
        chained = tuple(
            MeasuredChained(**{**entry, "tactic": ChainedTactic(**entry["tactic"])}) for entry in table["chained"]
        )
        about = f"measured on {table['gpu']} with Triton {table['triton']}, torch {table['torch']}"
        return cls(about, entries, fused, chained)

    def find(self, bits: int, rows: int, outputs: int, inputs: int) -> Tactic | None:
        """For a product of so many rows: that of the nearest shape. None: the vendor's product is faster."""
        fitting = [entry for entry in self.entries if entry.bits == bits and entry.rows >= rows]
        if not fitting:
            return None
        best = _nearest(fitting, outputs, inputs)
        return best.tactic if best.us < best.vendor_us else None

    def find_fused(
        self, layout: str, rows: int, outputs: int, inputs: int, *, normed: bool = False, gated: bool = False
    ) -> FusedTactic:
        """For a fused product of so many rows, or else of as many as were measured."""
        kind = layout.partition("-g")[0]
        known = [entry for entry in self.fused if entry.layout == kind and entry.gated == gated]
        known = [entry for entry in known if entry.normed == normed] or known
        most = max(entry.rows for entry in known)
        return _nearest([entry for entry in known if entry.rows >= min(rows, most)], outputs, inputs).tactic

    def find_chained(self, layout: str, rows: int, outputs: int, inputs: int, *, gated: bool = False) -> ChainedTactic:
        """For a chained product of so many rows, or else of as many as were measured."""
        kind = layout.partition("-g")[0]
        known = [entry for entry in self.chained if entry.layout == kind and entry.gated == gated]
        most = max(entry.rows for entry in known)
        return _nearest([entry for entry in known if entry.rows >= min(rows, most)], outputs, inputs).tactic


M = TypeVar("M", Measured, MeasuredFused, MeasuredChained)


def _nearest(entries: list[M], outputs: int, inputs: int) -> M:
    """Of those for the fewest rows, the one of the nearest shape."""
    least = min(entry.rows for entry in entries)

    def distance(entry: M) -> float:
        return abs(math.log(entry.outputs / outputs)) + abs(math.log(entry.inputs / inputs))

    return min((entry for entry in entries if entry.rows == least), key=distance)
