"""The table that was measured on this machine: a file in the user's cache, for the versions that it was measured with.

With others a tactic is compiled differently, and the vendor's products, beside which it was measured, are others.
"""

import json
import os
from pathlib import Path
from typing import Any


def path_of(card: str) -> Path:
    """Where the table of a card is, or would be: in $TRADEWIND_CACHE, or tradewind in $XDG_CACHE_HOME or ~/.cache.

    Raises RuntimeError if nobody's home is known.
    """
    own = os.environ.get("TRADEWIND_CACHE")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tradewind"
    return folder / "tactics" / f"{card}.json"


def versions() -> dict[str, str]:
    """Those that a table which is measured now holds for."""
    import torch
    import triton

    return {"torch": str(torch.__version__), "triton": str(triton.__version__)}


def read(path: Path) -> dict[str, Any]:
    """What is kept there. Raises OSError, or ValueError if it is no table or does not hold."""
    table = json.loads(path.read_text())
    if not isinstance(table, dict):
        raise ValueError("it is no table")
    for name, version in versions().items():
        if table.get(name) != version:
            raise ValueError(f"it was measured with {name} {table.get(name)}, and this is {version}")
    return table


def keep(path: Path, table: dict[str, Any]) -> None:
    """Have it found from now on; whoever reads meanwhile finds the former one whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    try:
        new.write_text(json.dumps(table, indent=1))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)  # what a full disk left of it
