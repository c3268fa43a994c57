"""The demo model's scripts, imported from the repository; they are not part of the package."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "training" / "demo"


@pytest.fixture(scope="session")
def script():
    """Import one of the scripts by name."""

    def load(name: str) -> ModuleType:
        sys.path.insert(0, str(SCRIPTS))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(str(SCRIPTS))

    return load


@pytest.fixture(scope="session")
def demo() -> Path:
    """The packaged model."""
    return Path(__file__).parents[3] / "tradewind" / "demo"
