"""Special tokens that a grammar names, as `<name>`: which of them an answer may say."""

import re
from collections.abc import Sequence

from tradewind.base.errors import RequestError

# Texts, regexes and comments come first: what looks like a name in them is none.
_NAMES = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/|(<[^<>\s]+>)')
_SHOWN = 8


def check_special(lark: str, allowed: Sequence[str], field: str) -> None:
    """Raise RequestError for a special token in the text of a grammar that is not among `allowed`."""
    for name in filter(None, _NAMES.findall(lark)):
        if name not in allowed:
            raise RequestError(f"{field}.grammar: {name} {_fault(name, allowed)}", field=field)


def _fault(name: str, allowed: Sequence[str]) -> str:
    if name.startswith("<["):
        return "names tokens by their ids; a special token is named by its text, any other is written as text in quotes"
    others = f"which are {', '.join(allowed[:_SHOWN])}{', ...' if allowed[_SHOWN:] else ''}" if allowed else "none here"
    return (
        f"is not among the special tokens that an answer may say, {others}; "
        "those that end one are left to the end of the grammar, and text is written in quotes"
    )
