"""`tradewind serve`."""

import argparse

from tradewind import config as settings_tree
from tradewind.cli.options import read_settings


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes; returns the exit status."""
    config: settings_tree.Config = read_settings(arguments)
    from tradewind.server.run import serve

    return serve(config)
