"""The search for tactics of one row, or two, within whole layers: `bench gpu --parts tune-layers`.

What a product takes by itself says little of what it takes in a layer: how much of its weights is on its way before its
row is there, and what it leaves of the chip to the product after it. So one place's tactic is changed while the others
stay as they are, what all layers take decides, and all places have a second turn, because what is best in one depends
on the others. It begins with the tactics that are in use, and ends with them if nothing was faster.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tradewind.bench.gpu_kernels import BLOCK, equal_rows, replayed_s, tell_of_compiling
from tradewind.bench.gpu_tune import (
    ChainedWork,
    FusedWork,
    chained_candidates,
    fused_candidates,
    is_gated,
    is_normed,
    seconds_of,
    tell_of_refusals,
    write_table,
)
from tradewind.config import ModelConfig
from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear.tactics import (
    ChainedTactic,
    FusedTactic,
    MeasuredChained,
    MeasuredFused,
    Tactics,
    layout_of,
)
from tradewind.kernels.ops import choose_ops
from tradewind.kernels.pages import KVPool, PoolShape
from tradewind.kernels.quantised_rows import FP8
from tradewind.kernels.rows import Rows
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model
from tradewind.runner.machine import usable_cpus

_BF16 = torch.bfloat16
_CONTEXT = 1024
_LAYERS_BYTES = 1 << 30  # so many bytes of layers are run one after the other, so that none are found in a cache
_TURNS, _REPEAT = 2, 16


@dataclass(frozen=True)
class Place:
    """Of a product in a layer ("qkv", "out", "gate_up" or "down"), and its weight there."""

    name: str
    outputs: int
    inputs: int

    @property
    def normed(self) -> bool:
        return is_normed(self.name)

    @property
    def gated(self) -> bool:
        return is_gated(self.name)


AnyTactic = ChainedTactic | FusedTactic
Picks = Mapping[Place, AnyTactic]


def tune_layers(options: argparse.Namespace, device: torch.device) -> Path:
    """Search for all of options.forms; the table's path, in options.out. It is kept."""
    tables = [table for form in dict.fromkeys(options.forms) for table in _search(options, form, device)]
    fused = [entry for table in tables for entry in table.fused]
    chained = [entry for table in tables for entry in table.chained]
    return write_table(options.out, device, "-layers", linear=(), fused=fused, chained=chained)


def _search(options: argparse.Namespace, form: str, device: torch.device) -> Iterator[Tactics]:
    model, chip = load(options.config, form, device), Chip.of(device)
    has_two = model.chained is not None and 1 in model.chained.steps
    for count in (1, 2) if has_two else (1,):
        yield _search_for(Layers(model, form, chip, count), options.max_model_len)


def _search_for(layers: "Layers", most_context: int) -> Tactics:
    model, form, count = layers.model, layers.form, layers.count
    rows = rows_of(model, count, most_context)
    pool = KVPool.allocate(pool_shape(model, count), _pages(form), model.device)

    def layer_us(picks: Picks) -> float:
        step = layers.step(picks, rows, pool)
        return seconds_of(lambda: replayed_s([step], _REPEAT)) * 1e6 / len(model.layers)

    ReadyKernels(usable_cpus()).prepare(
        lambda: [layers.step(picks, rows, pool)() for picks in layers.all_launched()],
        tell_of_compiling,
        tell_of_refusals,
    )
    found = descend(layers.begin, layers.candidates, layer_us)
    what = f"{form}, {count} row{'s' * (count > 1)}"
    print(f"{what}: {layer_us(layers.begin):.2f} us a layer before, {layer_us(found):.2f} with what was found")
    return layers.table_of(found)


def descend(
    picks: Picks, candidates: Mapping[Place, Sequence[AnyTactic]], us: Callable[[Picks], float]
) -> dict[Place, AnyTactic]:
    """The fastest that changing one place at a time leads to; `picks` themselves, if they are as fast in the end."""
    best = dict(picks)
    for turn in range(_TURNS):
        for place, tactics in candidates.items():
            times_us = {tactic: us({**best, place: tactic}) for tactic in dict.fromkeys((best[place], *tactics))}
            best[place] = min(times_us, key=lambda tactic: times_us[tactic])
            print(
                f"turn {turn + 1}, {place.name}: {times_us[best[place]]:.2f} us a layer with {best[place]}", flush=True
            )
    return best if us(best) < us(picks) else dict(picks)


def load(config: Path, form: str, device: torch.device) -> Model:
    """A model with random weights, of as many layers as a cache cannot hold."""
    quantisation = Quantisation.named("none" if form == "bf16" else form)
    ops = choose_ops(device, _BF16, quantisation=quantisation)
    model = load_model(config, ModelConfig(dtype="bfloat16", load_format="dummy"), device, ops)
    count = -(-_LAYERS_BYTES // model.layers[0].nbytes)
    return replace(model, layers=model.layers[:count])


def rows_of(model: Model, count: int, most: int) -> Rows:
    """One token each, after contexts whose blocks lie anywhere, where those of up to `most` tokens are served."""
    context = min(_CONTEXT, model.spec.max_position)
    tables_RM = torch.randperm(count * -(-context // BLOCK), device=model.device).int().view(count, -1)
    return replace(equal_rows(tables_RM, context, 1), max_context=most)


def pool_shape(model: Model, count: int) -> PoolShape:
    """For those contexts."""
    return model.spec.pool_shape(count * -(-_CONTEXT // BLOCK), BLOCK)


def _pages(form: str) -> torch.dtype:
    return _BF16 if form in ("bf16", "lossless") else FP8


class Layers:
    """A model's layers for `count` rows, by tactics that can be picked."""

    def __init__(self, model: Model, form: str, chip: Chip, count: int) -> None:
        self.model = model
        self.form = form
        self.count = count
        self._chip = chip
        self._is_chained = model.chained is not None and count in model.chained.steps
        layer = model.layers[0]
        weights = {
            "out": layer.attention.out.weight,
            "qkv": layer.attention.qkv.weight,
            "down": layer.feed_forward.down.weight,
            "gate_up": layer.feed_forward.gate_up.weight,
        }
        self._layout = layout_of(weights["qkv"].layout)
        self.places = [_place(name, weight) for name, weight in weights.items()]
        self.candidates = {place: list(self._candidates(place)) for place in self.places}
        self.begin: Picks = {place: self._in_use(place) for place in self.places}

    def step(self, picks: Picks, rows: Rows, pool: KVPool) -> Callable[[], object]:
        """What runs the layers, and little else, with these tactics."""
        model, table = self.model, self.table_of(picks)
        if self._is_chained:
            from tradewind.kernels.chained_linear.triton import TritonChainedLinear

            assert model.chained is not None
            run = TritonChainedLinear(model.device, self._chip, table, quantises=False, steps=model.chained.steps)
            model = replace(model, chained=run)
        else:
            from tradewind.kernels.fused_linear.triton import TritonFusedLinear

            fused = TritonFusedLinear(self._chip, table)
            model = replace(model, layers=tuple(replace(layer, fused=fused) for layer in model.layers), chained=None)
        tokens_R = torch.zeros(self.count, dtype=torch.int32, device=model.device)
        return lambda: model.forward(tokens_R, rows, pool)

    def table_of(self, picks: Picks) -> Tactics:
        """With these and no others."""
        fused, chained = [], []
        for place, tactic in picks.items():
            shape = (self._layout, self.count, place.outputs, place.inputs)
            if isinstance(tactic, ChainedTactic):
                chained.append(MeasuredChained(*shape, place.gated, tactic, None))
            else:
                fused.append(MeasuredFused(*shape, place.normed, place.gated, tactic, None))
        return Tactics("", (), tuple(fused), tuple(chained))

    def all_launched(self) -> Iterator[Picks]:
        """So that every kernel that the search may come to is launched once: how many programs have prepared a row
        counts for who takes it.
        """
        qkv, gate_up = (place for place in self.places if place.normed)
        for place, tactics in self.candidates.items():
            yield from ({**self.begin, place: tactic} for tactic in tactics)
        if self._is_chained:
            ends = {tactic.outputs: tactic for tactic in self.candidates[self.places[0]]}
            for end in ends.values():
                picks = {place: end for place in self.places if not place.normed}
                yield from ({**picks, qkv: tactic, gate_up: tactic} for tactic in self.candidates[qkv])

    def _candidates(self, place: Place) -> Iterator[AnyTactic]:
        if self._is_chained:
            yield from chained_candidates(ChainedWork(self.form, self.count, place.name), self._chip)
        else:
            yield from fused_candidates(FusedWork(self.form, self.count, place.normed, place.gated), self._chip)

    def _in_use(self, place: Place) -> AnyTactic:
        table, shape = Tactics.on(self._chip), (self._layout, self.count, place.outputs, place.inputs)
        if self._is_chained:
            return table.find_chained(*shape, gated=place.gated)
        return table.find_fused(*shape, normed=place.normed, gated=place.gated)


def _place(name: str, weight: LinearWeight) -> Place:
    return Place(name, weight.out_features, weight.in_features)
