"""One server with the built-in model for all of them. See docs/guides/compatibility.md for how these are run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "http"))

from live import Program


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The base URL of OpenAI's routes."""
    served = Program("demo", "--device", "cpu", "--threads", "1", "--memory-bytes", "64MiB")
    yield f"{served.url}/v1"
    served.close()
