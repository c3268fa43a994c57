"""`tradewind bench WHAT`."""

import argparse
from importlib import import_module


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark with the rest of the command line; returns its exit status."""
    return int(import_module(f"tradewind.bench.{arguments.what}").main(arguments.rest))
