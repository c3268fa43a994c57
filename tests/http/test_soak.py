"""The soak benchmark at a small size: nothing right fails, and nothing is held at the end."""

from pathlib import Path

import pytest

from tradewind.bench import soak


def test_a_short_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["demo", "--device", "fake", "--requests", "300", "--concurrency", "16", "--out", str(tmp_path)]
    assert soak.main(options) == 0
    said = capsys.readouterr().out
    assert "left in the middle" in said
    assert "refused with 400" in said
    assert "failed" not in said
