"""How products of few rows are launched: tables that were measured once per kind of GPU and are shipped.

Nothing is searched for while serving. `tradewind bench gpu --parts tune` measures a table for a model's shapes, which
is kept on the machine (kept.py) and goes before those that are shipped. A table lies in a file that is named after its
card.
"""

import functools
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tradewind.kernels.linear.tactics import kept

if TYPE_CHECKING:
    from tradewind.kernels.gpu import Chip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tactic:
    """How a product of few rows is launched: outputs of a program, inputs at a time, and how it is pipelined.

    `rows_first`: the rows are the tall operand of the tensor cores, else the weights are. `tma`: the tensor memory
    accelerator brings the tiles, where there is one. `releases`: with few rows the next kernel may begin at once.
    """

    outputs: int = 32
    inputs: int = 256
    warps: int = 4
    stages: int = 4
    rows_first: bool = False
    tma: bool = False
    releases: bool = False


@dataclass(frozen=True)
class Measured:
    """The fastest tactic for up to `rows` rows of a shape, and the vendor's product beside it.

    `gated`: half of the outputs are gates of the others, which is part of the product; beside it there is the vendor's
    and the gate. `us`, `vendor_us`: None if timed within a layer only.
    """

    bits: int
    rows: int
    outputs: int
    inputs: int
    tactic: Tactic
    us: float | None
    vendor_us: float | None
    gated: bool = False


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
    """The fastest tactic for up to `rows` rows of a weight in this layout. `us`: None if timed within a layer only.

    With one row a program has no tensor cores and no stages: see tradewind.kernels.fused_linear.vector.
    """

    layout: str
    rows: int
    outputs: int
    inputs: int
    normed: bool
    gated: bool
    tactic: FusedTactic
    us: float | None


@dataclass(frozen=True)
class ChainedTactic:
    """How a chained product is launched: outputs and rows of a tile, inputs at a time, and how it is pipelined.

    `programs`: on each multiprocessor, which share the tiles' steps out among themselves; 0: one for each tile.
    `rows_first`: the rows are the tall operand of the tensor cores, else the weights are. One or two rows: see
    tradewind.kernels.chained_linear.diagonal, where each warp has as many words at a time, and as many tiles on their
    way as there are stages. One stage of more rows: see tradewind.kernels.chained_linear.registers.
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
    """The fastest tactic for up to `rows` rows of a weight in this layout. `us`: None if timed within a layer only."""

    layout: str
    rows: int
    outputs: int
    inputs: int
    gated: bool
    tactic: ChainedTactic
    us: float | None


Entry = Measured | MeasuredFused | MeasuredChained
M = TypeVar("M", Measured, MeasuredFused, MeasuredChained)


@dataclass(frozen=True)
class Tactics:
    """A table, and where it comes from: `about` names the GPU and the versions it was measured with, for people.

    `origins`: the same of those entries, by their keys, that come from other tables.
    """

    about: str
    entries: tuple[Measured, ...]
    fused: tuple[MeasuredFused, ...] = ()
    chained: tuple[MeasuredChained, ...] = ()
    card: str = ""
    capability: tuple[int, int] = (0, 0)
    origins: Mapping[tuple[object, ...], str] = field(default_factory=dict)

    def about_layout(self, layout: str) -> str:
        """Where the tactics of this layout come from."""
        known: tuple[MeasuredFused | MeasuredChained, ...] = (*self.fused, *self.chained)
        return next((self._origin(one) for one in known if one.layout == layout), self.about)

    def about_gated(self, bits: int) -> str:
        """Where those of products that have the gate in them come from."""
        return next((self._origin(one) for one in self.entries if one.gated and one.bits == bits), self.about)

    def about_chained(self, layout: str) -> str:
        """Where those of chained products come from, for how many tokens if they do not all have one origin."""
        rows_of: dict[str, list[str]] = {}
        for rows, entry in sorted({one.rows: one for one in _of_layout(self.chained, layout)}.items()):
            rows_of.setdefault(self._origin(entry), []).append(str(rows))
        if len(rows_of) == 1:
            return next(iter(rows_of))
        return "; ".join(f"of up to {', '.join(rows)}: {origin}" for origin, rows in rows_of.items())

    @property
    def _all(self) -> tuple["Entry", ...]:
        return (*self.entries, *self.fused, *self.chained)

    def _origin(self, entry: "Entry") -> str:
        return self.origins.get(key_of(entry), self.about)

    @classmethod
    def on(cls, chip: "Chip") -> "Tactics":
        """Of the tables that there are, the one measured on this card, or else on the nearest.

        What was measured on this machine goes before what is shipped for its card. The nearest is that of the nearest
        compute capability, the first by name of several; `about` says why. Bits and layouts that it does not have, or
        not with gates, come from the next one, and so do numbers of rows for which it chains no products.
        """
        card = card_of(chip.name)
        tables = {table.card: table for table in cls.all_shipped()}
        own = cls.own(card)
        if own is not None:
            tables[card] = own.before(tables[card]) if card in tables else own

        def distance(table: Tactics) -> tuple[bool, int, str]:
            return (table.card != card, abs(_ten(table.capability) - _ten(chip.capability)), table.card)

        first, *others = sorted(tables.values(), key=distance)
        table = functools.reduce(cls._filled_up, others, first)
        if table.card == card:
            return table
        major, minor = chip.capability
        is_alike = table.capability == chip.capability
        why = "another of its capability" if is_alike else f"the nearest: none is for capability {major}.{minor}"
        return replace(table, about=f"{table.about}, {why}")

    @classmethod
    def own(cls, card: str) -> "Tactics | None":
        """The table that was measured on this machine, where there is one that holds."""
        try:
            path = kept.path_of(card)
            return _own(path, path.stat().st_mtime_ns)
        except (OSError, RuntimeError):
            return None

    def before(self, other: "Tactics") -> "Tactics":
        """This one's entries, and those of another that are for nothing that this one has an entry for."""

        def both(mine: tuple[M, ...], others: tuple[M, ...]) -> tuple[M, ...]:
            keys = {key_of(entry) for entry in mine}
            return mine + tuple(entry for entry in others if key_of(entry) not in keys)

        entries, fused = both(self.entries, other.entries), both(self.fused, other.fused)
        chained, about = both(self.chained, other.chained), self.about if self.entries else other.about
        return replace(
            self, about=about, entries=entries, fused=fused, chained=chained, origins=self._origins(other, about)
        )

    def _filled_up(self, other: "Tactics") -> "Tactics":
        kinds = {(entry.bits, entry.gated) for entry in self.entries}
        entries = tuple(entry for entry in other.entries if (entry.bits, entry.gated) not in kinds)
        known = {entry.layout for entry in self.fused}
        fused = tuple(entry for entry in other.fused if entry.layout not in known)
        works = {(entry.layout, entry.rows) for entry in self.chained}
        chained = tuple(entry for entry in other.chained if (entry.layout, entry.rows) not in works)
        return replace(
            self,
            entries=self.entries + entries,
            fused=self.fused + fused,
            chained=self.chained + chained,
            origins=self._origins(other, self.about),
        )

    def _origins(self, other: "Tactics", about: str) -> dict[tuple[object, ...], str]:
        """Of both tables' entries, but of those that come from where `about` says."""
        origins = {key_of(entry): table._origin(entry) for table in (other, self) for entry in table._all}
        return {key: origin for key, origin in origins.items() if origin != about}

    @classmethod
    def all_shipped(cls) -> "list[Tactics]":
        """The tables that come with the package, one for each card."""
        return [cls.parse(json.loads(path.read_text())) for path in sorted(Path(__file__).parent.glob("*.json"))]

    @classmethod
    def parse(cls, table: dict[str, Any], where: str = "") -> "Tactics":
        """From a file's content. `where` it was measured, for people. Raises KeyError, TypeError or ValueError."""
        entries = tuple(Measured(**{**entry, "tactic": Tactic(**entry["tactic"])}) for entry in table["linear"])
        fused = tuple(MeasuredFused(**{**entry, "tactic": FusedTactic(**entry["tactic"])}) for entry in table["fused"])
        chained = tuple(
            MeasuredChained(**{**entry, "tactic": ChainedTactic(**entry["tactic"])}) for entry in table["chained"]
        )
        about = f"measured {where}on {table['gpu']} with Triton {table['triton']}, torch {table['torch']}"
        major, minor = table["capability"]
        return cls(about, entries, fused, chained, card_of(table["gpu"]), (major, minor))

    def find(self, bits: int, rows: int, outputs: int, inputs: int, *, gated: bool = False) -> Tactic | None:
        """For a product of so many rows: that of the nearest shape. None: the vendor's product is faster."""
        kind = [entry for entry in self.entries if (entry.bits, entry.gated) == (bits, gated)]
        fitting = [entry for entry in kind if entry.rows >= rows]
        if not fitting:
            return None
        best = _nearest(fitting, outputs, inputs)
        if best.us is None or best.vendor_us is None:
            return best.tactic
        return best.tactic if best.us < best.vendor_us else None

    def find_fused(
        self, layout: str, rows: int, outputs: int, inputs: int, *, normed: bool = False, gated: bool = False
    ) -> FusedTactic:
        """For a fused product of so many rows, or else of as many as were measured."""
        known = [entry for entry in _of_layout(self.fused, layout) if entry.gated == gated]
        known = [entry for entry in known if entry.normed == normed] or known
        most = max(entry.rows for entry in known)
        return _nearest([entry for entry in known if entry.rows >= min(rows, most)], outputs, inputs).tactic

    def find_chained(self, layout: str, rows: int, outputs: int, inputs: int, *, gated: bool = False) -> ChainedTactic:
        """For a chained product of so many rows, or else of as many as were measured."""
        known = [entry for entry in _of_layout(self.chained, layout) if entry.gated == gated]
        most = max(entry.rows for entry in known)
        return _nearest([entry for entry in known if entry.rows >= min(rows, most)], outputs, inputs).tactic


@functools.cache
def _own(path: Path, _written_ns: int) -> Tactics | None:
    """Read once, and once more when it is another one."""
    try:
        table = Tactics.parse(kept.read(path), "here ")
        if table.card != path.stem:
            raise ValueError(f"it is of another card, {table.card}")
        return table
    except (OSError, ImportError, KeyError, TypeError, ValueError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        # In words, because whoever runs `tradewind doctor` sees no fields.
        log.warning("the tactics in %s are passed over (tune again, or delete it): %s", path, why)
        return None


def card_of(gpu: str) -> str:
    """What kind of card that is, in a word: `"h100"` of NVIDIA H100 80GB HBM3."""
    words = re.findall("[a-z0-9]+", gpu.lower())
    return next((word for word in words if re.search("[0-9]", word)), "-".join(words))


def key_of(entry: Entry) -> tuple[object, ...]:
    """What an entry is for: no two of a table have the same."""
    whats = (field.name for field in fields(entry) if field.name not in ("tactic", "us", "vendor_us"))
    return (type(entry).__name__, *(getattr(entry, what) for what in whats))


def _ten(capability: tuple[int, int]) -> int:
    return 10 * capability[0] + capability[1]


def layout_of(layout: str) -> str:
    """How a table names a weight's layout: by what it is, not by how it lies (int4-g128-quarters is int4-g128)."""
    return layout.removesuffix("-quarters")


F = TypeVar("F", MeasuredFused, MeasuredChained)


def _of_layout(entries: tuple[F, ...], layout: str) -> list[F]:
    """Of weights in this layout, or else in that of the same kind with the nearest group, the larger of two."""
    kind, _, group = layout_of(layout).partition("-g")
    groups = {entry.layout: _group(entry.layout) for entry in entries if entry.layout.partition("-g")[0] == kind}
    nearest = min(groups, key=lambda known: (abs(math.log(groups[known] / int(group or 1))), -groups[known]))
    return [entry for entry in entries if entry.layout == nearest]


def _group(layout: str) -> int:
    return int(layout.partition("-g")[2] or 1)


def _nearest(entries: list[M], outputs: int, inputs: int) -> M:
    """Of those for the fewest rows, the one of the nearest shape."""
    least = min(entry.rows for entry in entries)

    def distance(entry: M) -> float:
        return abs(math.log(entry.outputs / outputs)) + abs(math.log(entry.inputs / inputs))

    return min((entry for entry in entries if entry.rows == least), key=distance)
