"""docs/guides/api.md names every route and every field of a request that there is, and none that there is not."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tradewind.server.app import ACTIONS, DELETES, GETS, POSTS

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "api.md"
FIELDS = {path: [field.alias or name for name, field in body.model_fields.items()] for path, (_, body) in POSTS.items()}


def tables() -> dict[str, list[tuple[list[str], str]]]:
    """The tables under each heading: the names in a row's first cell, and Tradewind's cell."""
    found: dict[str, list[tuple[list[str], str]]] = defaultdict(list)
    heading = ""
    for line in GUIDE.read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 4, f"a row of {GUIDE.name} needs four cells: {line}"
            found[heading].append((re.findall(r"`([^`]+)`", cells[0]), cells[1]))
    return found


def routes() -> set[str]:
    named = (("GET", GETS), ("POST", POSTS), ("POST", ACTIONS), ("DELETE", DELETES))
    return {f"{method} {path.replace(':path', '')}" for method, paths in named for path in paths}


def test_every_route_is_in_the_table() -> None:
    written = [(name, ours) for names, ours in tables()["Routes"] for name in names]
    missing = sorted(routes() - {name for name, _ in written})
    rows = "\n".join(f"| `{route}` | yes | ? | ? |" for route in missing)
    assert not missing, f"add to {GUIDE.name}, under Routes:\n{rows}"
    stale = [name for name, ours in written if name not in routes() and not ours.startswith("no")]
    assert not stale, (
        f"{GUIDE.name} names routes that there are not; take them out, or begin their cell with 'no': {stale}"
    )


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_is_in_a_table(path: str) -> None:
    mine = [heading for heading in tables() if f"`{path}`" in heading]
    assert mine, f"{GUIDE.name} needs a heading with `{path}`"
    written = {name for heading in mine for names, _ in tables()[heading] for name in names}
    missing = [name for name in FIELDS[path] if name not in written]
    rows = "\n".join(f"| `{name}` | yes | ? | ? |" for name in missing)
    assert not missing, f"add to {GUIDE.name}, under '{mine[-1]}':\n{rows}"


def test_no_table_promises_a_field_that_there_is_not() -> None:
    for heading, rows in tables().items():
        paths = [path for path in FIELDS if f"`{path}`" in heading]
        known = {name for path in paths for name in FIELDS[path]}
        for names, ours in rows if paths else ():
            unknown = [name for name in names if name not in known]
            hint = f"{GUIDE.name}, '{heading}': {unknown} are no fields; take them out, or begin their cell with 'no'"
            assert not unknown or ours.startswith("no"), hint
            assert not ours.startswith("no:") or unknown == names, f"{heading}: {names} are fields, so not '{ours}'"
