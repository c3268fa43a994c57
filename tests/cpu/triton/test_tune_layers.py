"""The search for tactics within layers: what is changed, what is run with it, and what becomes of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.cpu.tiny_models import TinyModel, make_tiny_model
from tradewind.bench import gpu_tune_layers
from tradewind.bench.gpu_tune_layers import Layers, Picks, Place, descend
from tradewind.config import ModelConfig
from tradewind.kernels.chained_linear import triton as chained
from tradewind.kernels.fused_linear import triton as fused
from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import LinearWeight, fp8, reference
from tradewind.kernels.linear.tactics import ChainedTactic, FusedTactic, Tactics
from tradewind.kernels.ops import choose_ops
from tradewind.kernels.pages import KVPool
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model

CPU = torch.device("cpu")
CHIP = Chip(1, capability=(9, 0), name="NVIDIA H100")
FIRST, SECOND = (Place(name, 256, 256) for name in ("qkv", "out"))


def tactic(number: int) -> FusedTactic:
    return FusedTactic(number, 1, 512, 4, 1)


def test_a_place_has_a_second_turn() -> None:
    """What is best in the first depends on the second, which is chosen after it."""
    asked = []

    def us(picks: Picks) -> float:
        one, two = (picks[place].outputs for place in (FIRST, SECOND))
        asked.append((one, two))
        return abs(two - 3) + abs(one - two) / 2

    candidates = {place: [tactic(number) for number in range(1, 5)] for place in (FIRST, SECOND)}
    found = descend({FIRST: tactic(1), SECOND: tactic(1)}, candidates, us)
    assert found == {FIRST: tactic(3), SECOND: tactic(3)}
    assert (1, 3) in asked


def test_what_is_in_use_stays_if_nothing_is_faster() -> None:
    begin = {FIRST: tactic(9), SECOND: tactic(9)}
    assert descend(begin, {place: [tactic(1)] for place in begin}, lambda picks: 1.0) == begin


def test_what_was_fast_by_chance_is_not_kept() -> None:
    asked: list[FusedTactic] = []

    def us(picks: Picks) -> float:
        asked.append(picks[FIRST])
        return 2.0 if picks[FIRST] == tactic(1) and asked.count(tactic(1)) > 2 else 1.0 + (picks[FIRST] == tactic(9))

    begin = {FIRST: tactic(9)}
    assert descend(begin, {FIRST: [tactic(1)]}, us) == begin


def tiny(folder: Path, form: str) -> Model:
    pack = fp8.pack if form == "fp8" else reference.pack
    ops = replace(choose_ops(CPU, torch.bfloat16, "reference"), pack=pack)
    if form == "fp8":
        run = chained.TritonChainedLinear(CPU, CHIP, Tactics.on(CHIP), quantises=False, steps=range(1, 3))
        ops = replace(ops, chained_linear=run)
    else:
        ops = replace(ops, fused_linear=fused.TritonFusedLinear(CHIP, Tactics.on(CHIP)), fused_rows=16)
    shape = TinyModel(heads=2, kv_heads=1, head_dim=128, hidden=256, ffn=512, layers=2)
    return load_model(make_tiny_model(folder, shape), ModelConfig(dtype="bfloat16"), CPU, ops)


@pytest.mark.parametrize(("form", "count"), [("fp8", 1), ("fp8", 2), ("bf16", 1)])
def test_layers_run_with_what_was_picked(
    form: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers(tiny(tmp_path / "model", form), form, CHIP, count)
    launched: list[object] = []

    def no_chained(used: ChainedTactic) -> object:
        return lambda rows, weight, place, out, launch: launched.append(used)

    def no_fused(
        x: torch.Tensor, weight: LinearWeight, extras: fused.Extras, used: FusedTactic, *_: object
    ) -> torch.Tensor:
        launched.append(used)
        outputs = weight.out_features // (1 + extras.gated)
        return x.new_zeros(len(x), outputs)

    monkeypatch.setattr(chained, "implementation", no_chained)
    monkeypatch.setattr(chained, "prepare_kernel", {(count, 1): lambda *_args, **_how: None})
    monkeypatch.setattr(fused, "fused_linear", no_fused)
    rows = gpu_tune_layers.rows_of(layers.model, count, 4096)
    pool = KVPool.allocate(gpu_tune_layers.pool_shape(layers.model, count), torch.bfloat16)
    assert all(len(tactics) > 5 for tactics in layers.candidates.values())
    for number in (0, 3):
        picks = {place: tactics[number + index] for index, (place, tactics) in enumerate(layers.candidates.items())}
        launched.clear()
        layers.step(picks, rows, pool)()
        by_name = {place.name: tactic for place, tactic in picks.items()}
        assert launched == 2 * [by_name[name] for name in ("qkv", "out", "gate_up", "down")]
    table = layers.table_of(picks)
    assert [entry.rows for entry in (*table.fused, *table.chained)] == 4 * [count]


def test_every_kernel_is_launched_before_the_search(tmp_path: Path) -> None:
    """One that takes a row of some number of programs, after each number of them."""
    layers = Layers(tiny(tmp_path, "fp8"), "fp8", CHIP, 1)
    out, qkv, down, gate_up = layers.places
    launched = {
        (place.name, picks[place], picks[before].outputs)
        for picks in layers.all_launched()
        for place, before in ((qkv, down), (gate_up, out))
    }
    for end in {tactic.outputs for tactic in layers.candidates[out]}:
        assert {("qkv", tactic, end) for tactic in layers.candidates[qkv]} <= launched
        assert {("gate_up", tactic, end) for tactic in layers.candidates[gate_up]} <= launched
