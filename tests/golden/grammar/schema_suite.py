"""JSON-Schema-Test-Suite, draft 2020-12, against compiled grammars: the table in docs/guides/structured_output.md.

A schema counts once. `supported`: it compiles. `refused`: it does not, and a request with it would get a 400. `wrong`:
it compiles, and the grammar accepts an instance that the suite calls invalid, or a text drawn from it at random does
not validate. `narrower`: of the supported, those that reject some instance that the suite calls valid.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from tradewind.base.errors import RequestError
from tradewind.grammar.compile import Compiler
from tradewind.grammar.matcher import Matcher, Vocabulary
from tradewind.protocol.sampling import StructuredOutputs

EOS_ID = 256
BYTES = Vocabulary([bytes([byte]) for byte in range(256)] + [b"<eos>"], [EOS_ID], [EOS_ID])
DRAWS = 8  # texts per schema
MOST_TOKENS = 2000


@dataclass
class Tally:
    """One file of the suite."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def accepts(matcher: Matcher, text: str) -> bool:
    """Whether the grammar takes `text` as a whole."""
    goes_on = True
    for byte in text.encode():
        if not goes_on or not allowed(matcher)[byte]:
            return False
        goes_on = matcher.advance(byte)
    return not goes_on or bool(allowed(matcher)[EOS_ID])


def allowed(matcher: Matcher) -> "np.ndarray[Any, Any]":
    """The mask, a bool for each byte and the end."""
    return np.unpackbits(BYTES.masks([matcher])[0].view(np.uint8), bitorder="little").astype(bool)


def draw(matcher: Matcher, rng: random.Random) -> str | None:
    """A random text of the grammar; None if it grows too long. Its end is likely wherever it is allowed."""
    said = bytearray()
    for _ in range(MOST_TOKENS):
        mask = allowed(matcher)
        if mask[EOS_ID] and rng.random() < 0.4:
            break
        mask[EOS_ID] = False
        choices = np.flatnonzero(mask)
        # The ends of strings, lists and objects, too: a text that only grows proves little.
        closing = [byte for byte in choices.tolist() if byte in b'"]}' and rng.random() < 0.3]
        byte = rng.choice(closing or choices.tolist())
        said.append(byte)
        if not matcher.advance(byte):
            assert matcher.error is None, (matcher.error, said)
            break
    else:
        return None
    return said.decode()


def check(compiler: Compiler, schema: Any, tests: list[dict[str, Any]], tally: Tally) -> None:
    """One schema of the suite."""
    try:
        text = compiler.compile(StructuredOutputs(json=schema))
    except RequestError:
        tally.counts["refused"] += 1
        return
    start = BYTES.begin(text)
    faults = [test for test in tests if not test["valid"] and accepts(start.copy(), json.dumps(test["data"]))]
    faults += [test for test in tests if not test["valid"] and accepts(start.copy(), compact(test["data"]))]
    validator = jsonschema.Draft202012Validator(schema)
    rng = random.Random(0)
    drawn = [text for text in (draw(start.copy(), rng) for _ in range(DRAWS)) if text is not None]
    faults += [{"drawn": text} for text in drawn if not is_valid(validator, json.loads(text))]
    narrow = any(test["valid"] and not accepts(start.copy(), json.dumps(test["data"])) for test in tests)
    tally.counts["wrong" if faults else "supported"] += 1
    tally.counts["narrower"] += narrow and not faults
    tally.faults += [f"{json.dumps(schema)}: {fault}" for fault in faults]


def is_valid(validator: Any, value: Any) -> bool:
    """Python's `re` does not know every pattern of the suite; where it does not, only the instances prove anything."""
    try:
        return bool(validator.is_valid(value))
    except re.error:
        return True


def compact(value: Any) -> str:
    """As a model may write it as well."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def run(folder: Path) -> Iterator[tuple[str, Tally]]:
    """Every file of the suite, by name."""
    compiler = Compiler()
    for path in sorted(folder.glob("*.json")):
        tally = Tally()
        for case in json.loads(path.read_text()):
            check(compiler, case["schema"], case["tests"], tally)
        yield path.stem, tally


def table(tallies: dict[str, Tally]) -> str:
    """In Markdown."""
    columns = ("supported", "refused", "narrower", "wrong")
    lines = ["| keyword | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        total += tally.counts
        lines.append(f"| {name} | " + " | ".join(str(tally.counts[column]) for column in columns) + " |")
    lines.append("| **all** | " + " | ".join(f"**{total[column]}**" for column in columns) + " |")
    return "\n".join(lines)
