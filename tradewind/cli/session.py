"""An engine for as long as a terminal command lasts."""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console
from rich.status import Status

from tradewind.cli.options import read_sampling, read_settings
from tradewind.engine.client import AsyncEngine
from tradewind.protocol.sampling import SamplingParams


@asynccontextmanager
async def open_engine(arguments: argparse.Namespace) -> AsyncIterator[AsyncEngine]:
    """Boot the engine of the command's settings, saying on stderr how far it is; close it at the end."""
    config = read_settings(arguments)
    with Status(f"loading {config.model.model}", console=Console(stderr=True)) as status:

        def show(stage: str, share: float) -> None:
            status.update(f"{stage} {share:4.0%}")

        engine = await AsyncEngine.start(config, show)
    try:
        yield engine
    finally:
        await engine.close()


def sampling_of(arguments: argparse.Namespace, engine: AsyncEngine, **defaults: Any) -> SamplingParams:
    """The command's sampling options over the model's own defaults."""
    return read_sampling(arguments, {**defaults, **engine.defaults.sampling()})
