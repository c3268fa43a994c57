"""What every benchmark prints and leaves behind: a table, a JSON file, a plot."""

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tradewind import __version__

Row = dict[str, Any]
_FILE_WIDTH = 160  # columns of a table that is not written to a terminal


@dataclass
class Report:
    """One benchmark's outcome: `rows` of equal keys, and the `settings` that reproduce them (the seed included)."""

    name: str
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """One more row, told at once: a run that is cut off does not lose it."""
        self.rows.append(row)
        print(", ".join(f"{column} {_cell(value)}" for column, value in row.items()), flush=True)

    def print(self) -> None:
        """The rows as a table on stdout."""
        table = Table(title=f"tradewind bench {self.name}", title_justify="left")
        for column in self.rows[0] if self.rows else ():
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*(_cell(value) for value in row.values()))
        console = Console()
        (console if console.is_terminal else Console(width=_FILE_WIDTH)).print(table)

    def write(self, folder: Path) -> Path:
        """`NAME.json` in `folder`: rows, settings, the machine, the version, the time. Returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name.replace(' ', '-')}.json"
        record = {
            "benchmark": self.name,
            "tradewind": __version__,
            "machine": {"cpu": cpu_name(), "python": platform.python_version(), "kernel": platform.release()},
            "unix_time_s": round(time.time()),
            "settings": self.settings,
            "rows": self.rows,
        }
        path.write_text(json.dumps(record, indent=1, default=str))
        return path

    def plot(self, folder: Path, x: str, ys: Sequence[str]) -> Path | None:
        """`NAME.png` in `folder`: each of the columns `ys` over column `x`, one panel each; None without matplotlib."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            return None
        figure = Figure(figsize=(4.2 * len(ys), 3.4), layout="constrained")
        for panel, y in zip(figure.subplots(1, len(ys), squeeze=False)[0], ys, strict=True):
            points = sorted((row[x], row[y]) for row in self.rows)
            panel.plot(*zip(*points, strict=True), marker="o")
            panel.set(xlabel=x, ylabel=y, ylim=(0, None))
            panel.grid(alpha=0.3)
        figure.suptitle(f"tradewind bench {self.name}")
        path = folder / f"{self.name.replace(' ', '-')}.png"
        figure.savefig(path, dpi=120)
        return path


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of `values` lie (nearest rank); NaN when there are none."""
    if not values:
        return float("nan")
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def cpu_name() -> str:
    """The processor's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value)
