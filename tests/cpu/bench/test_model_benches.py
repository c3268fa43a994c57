"""The benchmarks of steps and of quality run, and say what can be known beforehand."""

import json
from pathlib import Path

import pytest

from tradewind.bench import quality, roofline, step
from tradewind.bench.ceilings import Ceilings
from tradewind.bench.step import Work

CEILINGS = Ceilings(read=1e10, multiply=1e11, multiply_int8=2e11)


def rows_of(folder: Path, name: str) -> list[dict[str, object]]:
    return json.loads((folder / f"{name}.json").read_text())["rows"]


def test_a_work_is_read_as_it_is_written() -> None:
    assert Work.parse("32x319+1") == Work(rows=32, cached=319, new=1)
    assert str(Work(1, 0, 512)) == "1x0+512"
    with pytest.raises(ValueError):
        Work.parse("512")


def test_steps_of_the_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "measure_ceilings", lambda _repeat: CEILINGS)
    works, variants = ["2x20+1", "1x0+9"], ["none/auto", "int8/int8"]
    assert step.main(["demo", "--works", *works, "--variants", *variants, "--repeat", "1", "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path, "step")
    assert [(row["work"], row["variant"]) for row in rows[4:]] == [(w, v) for w in works for v in variants]
    assert all(row["ms"] > 0 and row["of the bound"] > 0 for row in rows[4:])
    # A quantised model has fewer bytes to read.
    read_bytes = [row["GB/s"] * row["ms"] for row in rows[4:]]
    assert read_bytes[1] < 0.7 * read_bytes[0]


def test_quality_of_the_demo_model(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a fox named Hazel. He lived in the big city.")
    arguments = ["demo", "--samples", "2", "--window", "64", "--text", str(text), "--out", str(tmp_path)]
    assert quality.main([*arguments, "--variants", "none/auto", "int8/int8", "int4/auto"]) == 0
    rows = rows_of(tmp_path, "quality")
    assert [row["text"] for row in rows] == ["its own"] * 3 + ["a story"] * 3 + ["text.txt"] * 3
    assert rows[0]["change"] == "+0.00%"
    assert rows[0]["same token"] == "100.00%"
    assert abs(float(rows[1]["change"][:-1])) < 2


def test_a_roofline_is_drawn(tmp_path: Path) -> None:
    rows = [{"work": "linear, 1 row", "GB/s": 9.0, "GFLOP/s": 9.0}, {"work": "ceiling", "GB/s": 1.0, "GFLOP/s": 0.0}]
    path = roofline.plot_roofline(rows, CEILINGS, tmp_path / "roof.png")
    assert path is not None
    assert path.read_bytes().startswith(b"\x89PNG")
