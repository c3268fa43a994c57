"""`tradewind keys`: the file of `tradewind serve --api-key-file`."""

import argparse
import dataclasses
import sys
from collections import Counter
from pathlib import Path

from tradewind.base.errors import ConfigError
from tradewind.server.key_file import add_key, parse, read
from tradewind.server.keys import Rates


def run(arguments: argparse.Namespace) -> int:
    """Make a key, or list them; returns the exit status."""
    path = Path(arguments.file)
    if arguments.what == "list":
        return _list(path)
    if arguments.name is None:
        raise ConfigError("whose key? tradewind keys new NAME --file FILE")
    rates = Rates(arguments.requests_per_minute, arguments.tokens_per_minute, arguments.concurrency)
    print(add_key(path, arguments.name, rates))
    print(f"This is {arguments.name}'s key. It is kept nowhere: {path} has its hash only.", file=sys.stderr)
    return 0


def _list(path: Path) -> int:
    callers = Counter(line.caller for line in parse(read(path), str(path)))
    for caller, count in callers.items():
        limits = {name: value for name, value in dataclasses.asdict(caller.rates).items() if value is not None}
        told = ", ".join(f"{name} {value}" for name, value in limits.items()) or "no limits"
        print(f"{caller.name}: {count} key{'s' if count > 1 else ''}, {told}")
    return 0
