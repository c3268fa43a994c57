"""Tables of tactics that were measured on this machine: found, combined with what is shipped, and passed over."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tradewind.bench.gpu_tune import keep
from tradewind.kernels.gpu import ABSENT_GPUS, Chip
from tradewind.kernels.linear.tactics import FusedTactic, Tactics, kept

MINE = FusedTactic(2, 1, 512, 2, 1)
H200 = Chip.of(ABSENT_GPUS["h200"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRADEWIND_CACHE", str(tmp_path))
    return tmp_path


def fused(layout: str, outputs: int, tactic: FusedTactic = MINE) -> dict[str, Any]:
    how = {"outputs": tactic.outputs, "rows": 1, "inputs": 512, "warps": 2, "stages": 1}
    place = {"outputs": outputs, "inputs": 4096, "normed": True, "gated": False}
    return {"layout": layout, "rows": 1, **place, "tactic": how, "us": 1.0}


def table(*entries: dict[str, Any], gpu: str = "NVIDIA H200") -> dict[str, Any]:
    found = {"linear": [], "fused": list(entries), "chained": []}
    return {"gpu": gpu, "capability": [9, 0], **kept.versions(), **found}


def one_row(tactics: Tactics, layout: str, outputs: int) -> FusedTactic:
    return tactics.find_fused(layout, 1, outputs, 4096, normed=True)


def test_what_was_measured_here_goes_before_what_is_shipped() -> None:
    shipped = Tactics.on(H200)
    assert "kept as" in keep(table(fused("fp8", 6144)))
    tactics = Tactics.on(H200)
    assert one_row(tactics, "fp8", 6144) == MINE
    assert tactics.about_layout("fp8").startswith("measured here on NVIDIA H200 with Triton")
    # All else is as it was: other shapes, layouts, products of more rows, and other cards.
    assert tactics.find_fused("fp8", 1, 28672, 4096, normed=True, gated=True) == shipped.find_fused(
        "fp8", 1, 28672, 4096, normed=True, gated=True
    )
    assert one_row(tactics, "dense", 6144) == one_row(shipped, "dense", 6144)
    assert (tactics.entries, tactics.chained) == (shipped.entries, shipped.chained)
    assert tactics.about == shipped.about
    assert tactics.about_layout("lossless") == shipped.about_layout("lossless")
    assert Tactics.own("h100") is None


def test_a_card_for_which_none_is_shipped() -> None:
    chip = Chip.of(ABSENT_GPUS["l40s"])
    keep({**table(fused("dense", 6144), gpu="NVIDIA L40S"), "capability": [8, 9]})
    tactics = Tactics.on(chip)
    assert tactics.about.startswith("measured here on NVIDIA L40S")
    assert one_row(tactics, "dense", 6144) == one_row(tactics, "dense", 28672) == MINE
    assert tactics.find(16, 16, 4096, 4096) is not None
    assert one_row(tactics, "fp8", 6144) != MINE


def test_forms_and_shapes_that_were_measured_at_different_times() -> None:
    newer = FusedTactic(8, 1, 512, 2, 1)
    keep(table(fused("fp8", 6144), fused("dense", 6144)))
    keep(table(fused("fp8", 6144, newer), fused("fp8", 1000)))
    tactics = Tactics.on(H200)
    assert one_row(tactics, "fp8", 6144) == newer
    assert one_row(tactics, "fp8", 1000) == one_row(tactics, "dense", 6144) == MINE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "no table"),
        (json.dumps({**table(fused("fp8", 6144)), "triton": "1.2.3"}), "measured with triton 1.2.3, and this is"),
        (json.dumps({**table(), "gpu": "NVIDIA H100 80GB HBM3"}), "another card, h100"),
        (json.dumps({**table(), "fused": [{**fused("fp8", 6144), "more": 1}]}), "more"),
        (json.dumps({name: value for name, value in table().items() if name != "chained"}), "it has no 'chained'"),
        ("\udc80", "decode"),
    ],
    ids=["empty", "list", "version", "card", "field", "part", "bytes"],
)
def test_a_table_that_does_not_hold_is_passed_over(text: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    shipped, path = Tactics.on(H200), kept.path_of("h200")
    path.parent.mkdir()
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert Tactics.on(H200) == Tactics.on(H200) == shipped
    (record,) = caplog.records  # told once
    assert str(path) in record.getMessage()
    assert why in record.getMessage()
    assert "kept as" in keep(table(fused("fp8", 6144)))
    assert one_row(Tactics.on(H200), "fp8", 6144) == MINE


def test_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEWIND_CACHE", os.devnull)
    assert "cannot be kept" in keep(table(fused("fp8", 6144)))
    assert Tactics.own("h200") is None


def test_the_cache_lies_where_programs_keep_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRADEWIND_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert kept.path_of("h200") == Path("/somewhere/tradewind/tactics/h200.json")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept.path_of("h200") == tmp_path / ".cache/tradewind/tactics/h200.json"
