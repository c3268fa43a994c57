"""The library of C++ kernels where it is missing."""

import logging
from collections.abc import Iterator

import pytest

from tradewind.kernels.native import library


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As after an install without a compiler."""
    monkeypatch.setattr(library, "_find", lambda: None)
    library._load.cache_clear()
    yield
    library._load.cache_clear()


def test_what_is_missing_is_said_once(missing: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = [library.load(), library.load(None), library.load(level=None)]
    assert [one.why_not is not None and "compiler" in one.why_not for one in found] == [True] * 3
    assert len(caplog.records) == 1
