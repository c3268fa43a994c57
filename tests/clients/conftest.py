"""Libraries over the SDKs, against a server with the built-in model at TRADEWIND_URL.

They are no dependencies of the tests: one of them asks for old versions of what others need. See
docs/guides/compatibility.md for how they are run.
"""

import os

import pytest


@pytest.fixture(scope="session")
def url() -> str:
    """The base URL of OpenAI's routes."""
    if "TRADEWIND_URL" not in os.environ:
        pytest.skip("needs a server of the built-in model, and TRADEWIND_URL to say where")
    return os.environ["TRADEWIND_URL"] + "/v1"
