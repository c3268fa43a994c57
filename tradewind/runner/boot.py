"""Boot: from a model's directory to a runner that has measured itself. Importing this imports no torch."""

from collections.abc import Callable
from pathlib import Path

from tradewind.config import Config
from tradewind.protocol.runner import Runner

# `progress(stage, share)`: what is being done, for people, and how much of it is done, in 0..1.
Progress = Callable[[str, float], None]


def no_progress(_stage: str, _share: float) -> None:
    """Says nothing."""


def boot_runner(directory: Path, config: Config, progress: Progress = no_progress) -> Runner:
    """Load the model, measure memory, warm up. Sets the number of torch's threads in this process.

    Raises the start-up errors of tradewind.base.errors: what the model's files are wrong about, NotEnoughMemory,
    ConfigError (no such device).
    """
    if config.runner.device == "fake":
        from tradewind.runner.boot_fake import boot_fake

        return boot_fake(directory, config)
    progress("importing torch", 0.0)
    from tradewind.runner.boot_device import boot_device

    return boot_device(directory, config, progress)
