"""The search for tactics of products of few rows, which is never done while serving: `bench gpu --parts tune`.

Every tactic is compiled on all cores first, so that measuring finds it ready. What comes out is a table like those
shipped in tradewind/kernels/linear/tactics; it has only what `--forms` names. It is kept on the machine, too, where it
is used from then on.
"""

import argparse
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from tradewind.bench.gpu_kernels import layer_shapes, replayed_s, tell_of_compiling
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.kernels.linear import LinearWeight, fp8, fp8_blocks, lossless, reference
from tradewind.kernels.linear.int4 import Int4
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear.tactics import (
    ChainedTactic,
    Entry,
    FusedTactic,
    Measured,
    MeasuredChained,
    MeasuredFused,
    Tactic,
    Tactics,
    card_of,
    kept,
    key_of,
    layout_of,
)
from tradewind.kernels.linear.torch_linear import linear as by_torch
from tradewind.kernels.quantised_rows import Activations, QuantisedRows, quantise_rows
from tradewind.runner.machine import usable_cpus

ROWS = (16, 64)
_TURN_BYTES = 400 << 20
_BF16 = torch.bfloat16

T = TypeVar("T")


@dataclass(frozen=True)
class FusedWork:
    """What a fused product is measured for: as many rows as `rows`, of a weight in the layout of `form`."""

    form: str
    rows: int
    normed: bool
    gated: bool


@dataclass(frozen=True)
class ChainedWork:
    """What a chained product is measured for: a place in a layer ("qkv", "out", "gate_up" or "down")."""

    form: str
    rows: int
    place: str


def is_normed(place: str) -> bool:
    """Whether a norm goes before the product there."""
    return place in ("qkv", "gate_up")


def is_gated(place: str) -> bool:
    """Whether a gate comes after it."""
    return place == "gate_up"


def tune(options: argparse.Namespace, device: torch.device) -> Path:
    """Search for the fastest tactic of every shape of options.config; the table's path, in options.out. It is kept."""
    ready = ReadyKernels(usable_cpus())
    ready.prepare(
        lambda: [launch() for launch in _launches(options.forms, device)], tell_of_compiling, tell_of_refusals
    )
    shapes = layer_shapes(json.loads((options.config / "config.json").read_text()))
    entries: list[Measured] = []
    fused: list[MeasuredFused] = []
    chained: list[MeasuredChained] = []
    for form in dict.fromkeys(options.forms):
        for name, (outputs, inputs) in shapes.items():
            weights = _weights(form, outputs, inputs, device, _TURN_BYTES)
            if form in ("bf16", "fp8"):
                entries.extend(_search(form, name, weights, device))
                if is_gated(name):
                    entries.extend(_search_gated(form, weights, device))
            fused.extend(_search_fused(work, weights, device) for work in _fused_works(form, name))
            works = (ChainedWork(form, rows, name) for rows in _chained_rows(form))
            chained.extend(_search_chained(work, weights, device) for work in works)
    return write_table(options.out, device, "", linear=entries, fused=fused, chained=chained)


def write_table(folder: Path, device: torch.device, suffix: str, **entries: Iterable[Entry]) -> Path:
    """The table's path, in `folder`. It is kept, too."""
    gpu = torch.cuda.get_device_name(device)
    about = {"gpu": gpu, "capability": torch.cuda.get_device_capability(device), **kept.versions()}
    table = {**about, **{part: rows_of_table(some) for part, some in entries.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card_of(gpu)}{suffix}.json"
    path.write_text(json.dumps(table, indent=1))
    print(keep(table))
    return path


def keep(table: dict[str, Any]) -> str:
    """Keep it with what was kept before for other forms or shapes; what became of it, for people."""
    card, found = card_of(table["gpu"]), Tactics.parse(table)
    own = Tactics.own(card)
    found = found if own is None else found.before(own)
    parts = (("linear", found.entries), ("fused", found.fused), ("chained", found.chained))
    whole = {**table, **{name: rows_of_table(entries) for name, entries in parts}}
    try:
        path = kept.path_of(card)
        kept.keep(path, whole)
    except (OSError, RuntimeError) as error:
        return f"the table cannot be kept on this machine, and is not used: {error}"
    return f"kept as {path}, and used on this machine from now on; without that file, the shipped one is"


def rows_of_table(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """As they stand in a file; of those that are for the same, such as two places of one shape, the first."""
    first: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        first.setdefault(key_of(entry), entry)
    return [asdict(entry) for entry in first.values()]


def tell_of_refusals(faults: list[str], total: int) -> None:
    """Among so many candidates some are always too large for the chip, or more than the compiler can do."""
    print(f"{len(faults)} of {total} candidates cannot be compiled and are passed over", flush=True)


def candidates(size: int, rows: int, chip: Chip) -> Iterator[Tactic]:
    """Tactics worth trying for weights of `size` bytes a number, of which the chip has room for all stages."""
    from tradewind.kernels.linear.triton import fitted

    choices = itertools.product(
        (16, 32, 64, 128), (128, 256, 512), (4, 8), (3, 4, 5, 6, 7), (False, True), (False, True)
    )
    for outputs, columns, warps, stages, rows_first, by_tma in choices:
        inputs = columns // size if by_tma else columns
        tile = outputs * inputs * size * stages
        tactic = Tactic(outputs, inputs, warps, stages, rows_first, by_tma)
        is_odd = (rows_first and outputs > 64) or (not rows_first and outputs < 64 and warps == 8)
        is_odd |= outputs < 32 if by_tma else stages > 6
        is_odd |= by_tma > chip.has_tma
        if tile >= (24_000 if by_tma else 48_000) and not is_odd and fitted(tactic, rows, size, chip) == tactic:
            yield tactic


def gated_candidates(size: int, rows: int, chip: Chip) -> Iterator[Tactic]:
    """Tactics worth trying with the gate in the product, half of whose outputs the tensor cores take at once."""
    from tradewind.kernels.linear.triton import fitted

    choices = itertools.product((64, 128), (128, 256), (4, 8), (2, 3, 4, 5), (False, True))
    for outputs, row_bytes, warps, stages, rows_first in choices:
        tactic = Tactic(outputs, row_bytes // size, warps, stages, rows_first, chip.has_tma)
        is_odd = outputs == 64 and (warps == 8 or not rows_first)
        if not is_odd and fitted(tactic, rows, size, chip) == tactic:
            yield tactic


def fused_candidates(work: FusedWork, chip: Chip) -> Iterator[FusedTactic]:
    """Tactics worth trying, likewise. Four numbers of 4 bits are two bytes, and belong to four parts of a row."""
    from tradewind.kernels.fused_linear.triton import Reading

    inputs_s: tuple[int, ...]
    if work.rows == 1:
        inputs_s = (128, 256, 512, 1024) if _in_parts(work.form) else (512, 1024, 2048)
        yield from (
            FusedTactic(outputs, 1, inputs, warps, 1)
            for outputs, inputs, warps in itertools.product((1, 2, 4, 8, 16, 32, 64), inputs_s, (1, 2, 4, 8))
            if 256 <= outputs * inputs // warps <= 2048
        )
        return
    size = 1 if work.form in ("fp8", "fp8-blocks") else 2
    parts = 4 if _in_parts(work.form) else 1
    reading = Reading(parts, lossless.PLANES if work.form == "lossless" else 1)
    inputs_s = (128,) if work.form in ("fp8-blocks", "int4-g128") else (128, 256, 512)
    inputs_s = (32, 64, 128) if work.form == "lossless" else inputs_s
    choices = itertools.product((32, 64, 128), inputs_s, (4, 8), (2, 3, 4, 5, 6))
    for outputs, inputs, warps, stages in choices:
        for rows in (16,) if work.rows == 16 else (64, 128):
            weights_bytes = outputs * inputs * size * reading.planes * (2 if work.gated else 1)
            tactic = FusedTactic(outputs, rows, inputs, warps, stages)
            is_odd = rows > work.rows or (outputs < 64 and (warps == 8 or rows > 16))
            is_odd |= parts > 1 and outputs * rows > 2048 * warps  # registers would not suffice
            is_odd |= weights_bytes * (stages - 1) < 24_000
            if not is_odd and reading.fitted(tactic, chip, size, gated=work.gated) == tactic:
                yield tactic


def _in_parts(form: str) -> bool:
    """Whether a word holds numbers of several parts of a row."""
    return form == "lossless" or form.startswith("int4")


def _chained_rows(form: str) -> tuple[int, ...]:
    """For how many rows products of this form are chained."""
    if form in ("bf16", "lossless"):
        return ()
    if form == "fp8":
        return (1, 2)
    return (1, 2, 8, 16, 32, 64) if form.startswith("int4") else ROWS


def chained_candidates(work: ChainedWork, chip: Chip) -> Iterator[ChainedTactic]:
    """Tactics worth trying, likewise. What quantises owns a whole group."""
    from tradewind.kernels.chained_linear.diagonal import MOST_ROWS, WARP_WORDS
    from tradewind.kernels.fused_linear.triton import Reading

    if work.rows <= MOST_ROWS:
        warps_s, most = ((2, 4, 8), 32) if work.form == "fp8" else ((1, 2, 4), 16)
        for outputs, warps, stages in itertools.product((4, 8, 16), warps_s, (1, 2, 4)):
            if outputs * stages <= most * work.rows:
                yield ChainedTactic(outputs, work.rows, WARP_WORDS, warps, stages, 0)
        return
    if work.form.startswith("int4") and work.rows <= 16:
        for outputs, inputs, warps in itertools.product((16, 32), (32, 64, 128), (1, 2, 4, 8)):
            yield ChainedTactic(outputs, work.rows, inputs, warps, 1, 0)
    if work.rows < 16:
        return
    is_int4, gated = work.form.startswith("int4"), is_gated(work.place)
    outputs_s = (64, 128) if is_int4 or work.place == "qkv" else (128,)
    programs_s = (0,) if gated else (0, 1, 2) if is_int4 else (0, 1) if work.place == "qkv" else (1,)
    inputs, size, first_s = (64, 2, (False,)) if is_int4 else (128, 1, (False, True))
    reading = Reading(4 if is_int4 else 1)
    choices = itertools.product(outputs_s, (4, 8), (2, 3, 4, 6), programs_s, first_s)
    for outputs, warps, stages, programs, rows_first in choices:
        tactic = ChainedTactic(outputs, work.rows, inputs, warps, stages, programs, rows_first)
        is_odd = (warps == 4 and outputs * work.rows > 64 * 64) or (rows_first and work.rows < 64)
        if not is_odd and reading.fitted(tactic, chip, size, gated=gated, row_itemsize=size) == tactic:
            yield tactic


def _fused_works(form: str, name: str) -> Iterator[FusedWork]:
    """Few rows come with the norm or gate of their place in a layer, more rows without."""
    for rows in (1,) if form == "fp8" else (1, 16):
        yield FusedWork(form, rows, is_normed(name), is_gated(name))
    for rows in (64,) if form == "lossless" else (64, 256) if form.startswith("int4") else ():
        yield FusedWork(form, rows, False, False)


def _pack(form: str) -> Callable[[torch.Tensor, torch.Tensor | None], LinearWeight]:
    if form in ("bf16", "lossless"):
        return reference.pack if form == "bf16" else lossless.pack
    if form in ("fp8", "fp8-blocks"):
        return fp8.pack if form == "fp8" else fp8_blocks.pack
    quantisation = Quantisation.named(form)
    assert quantisation is not None
    return Int4(quantisation.group).pack


def _weights(form: str, outputs: int, inputs: int, device: torch.device, nbytes: int) -> list[LinearWeight]:
    first = _pack(form)(torch.randn(outputs, inputs, device=device).bfloat16(), None)
    more = nbytes // first.nbytes
    return [first, *(_pack(form)(torch.randn(outputs, inputs, device=device).bfloat16(), None) for _ in range(more))]


def _rows(form: str, rows: int, inputs: int, device: torch.device) -> torch.Tensor | QuantisedRows:
    x_TD = torch.randn(rows, inputs, device=device).bfloat16()
    return quantise_rows(x_TD) if form == "fp8" else x_TD


def _fused_call(
    work: FusedWork, weight: LinearWeight, tactic: FusedTactic, device: torch.device, chip: Chip
) -> Callable[[], object]:
    from tradewind.kernels.fused_linear.triton import Extras, fused_linear

    x_TD = torch.randn(work.rows, weight.in_features, device=device).bfloat16()
    norm = Norm(torch.ones(weight.in_features, device=device, dtype=_BF16), 1e-5) if work.normed else None
    residual_TN = None
    if work.rows <= ROWS[0] and not work.normed:
        residual_TN = torch.randn(work.rows, weight.out_features, device=device).bfloat16()
    return functools.partial(fused_linear, x_TD, weight, Extras(norm, work.gated, residual_TN), tactic, chip, _BF16)


def _chained_call(
    work: ChainedWork, weight: LinearWeight, tactic: ChainedTactic, device: torch.device, chip: Chip
) -> Callable[[], object]:
    from tradewind.kernels.chained_linear.triton import Launch, Place, TritonChainedLinear, implementation

    run = TritonChainedLinear(device, chip, Tactics.on(chip), quantises=work.form == "fp8-blocks")
    x_TD = torch.randn(work.rows, weight.in_features, device=device).bfloat16()
    norm_in, norm_out = (
        Norm(torch.ones(width, device=device, dtype=_BF16), 1e-5) for width in (weight.in_features, weight.out_features)
    )
    rows = run.prepare(x_TD, norm_in if is_normed(work.place) else None)
    place = Place()
    if is_gated(work.place):
        place = Place(gated=True)
    elif work.place != "qkv":
        place = Place(residual_TN=x_TD.new_zeros(work.rows, weight.out_features), norm=norm_out)
    call = implementation(tactic)
    out = run.room(work.rows, weight, place, x_TD.dtype, tactic)
    return functools.partial(call, rows, weight, place, out, Launch(tactic, chip, run.arrivals))


def _launches(forms: list[str], device: torch.device) -> Iterator[Callable[[], object]]:
    """Of each kernel that is searched among, on a small weight."""
    from tradewind.kernels.linear.triton import few_rows

    chip = Chip.of(device)
    for form in forms:
        weight = _weights(form, 256, 4096, device, 1)[0]
        for rows in ROWS if form in ("bf16", "fp8") else ():
            x = _rows(form, rows, 4096, device)
            for tactic in candidates(weight.data.itemsize, rows, chip):
                yield functools.partial(few_rows, x, weight, None, _BF16, tactic, chip)
            for tactic in gated_candidates(weight.data.itemsize, rows, chip):
                yield from _gated_calls(x, [weight], chip, tactic)
        for work in dict.fromkeys(work for name in ("qkv", "out", "gate_up") for work in _fused_works(form, name)):
            for fused_tactic in fused_candidates(work, chip):
                yield _fused_call(work, weight, fused_tactic, device, chip)
        works = itertools.product(_chained_rows(form), ("qkv", "out", "gate_up"))
        for chained_work in (ChainedWork(form, rows, place) for rows, place in works):
            for chained_tactic in chained_candidates(chained_work, chip):
                yield _chained_call(chained_work, weight, chained_tactic, device, chip)


def seconds_of(measure: Callable[[], float]) -> float:
    """What it measures; infinity for what the chip has no room for, or the compiler refuses."""
    from triton.runtime.errors import TritonError

    try:
        return measure()
    except TritonError:
        return math.inf
    except RuntimeError as error:
        if "PassManager" not in str(error):  # which is how the compiler refuses
            raise
        return math.inf


def _fastest(tactics: Iterable[T], calls: Callable[[T], list[Callable[[], object]]]) -> tuple[T, float]:
    """Of those that fit the chip; and the seconds of one of its `calls`."""
    times_s = {tactic: seconds_of(functools.partial(replayed_s, calls(tactic), 4)) for tactic in tactics}
    best = min(times_s, key=lambda tactic: times_s[tactic])
    assert times_s[best] < math.inf
    return best, times_s[best]


def _few_rows_calls(
    x: Activations, weights: list[LinearWeight], chip: Chip, tactic: Tactic
) -> list[Callable[[], object]]:
    from tradewind.kernels.linear.triton import few_rows

    return [functools.partial(few_rows, x, weight, None, _BF16, tactic, chip) for weight in weights]


def _gated_calls(x: Activations, weights: list[LinearWeight], chip: Chip, tactic: Tactic) -> list[Callable[[], object]]:
    from tradewind.kernels.gated_linear.triton import TritonGatedLinear

    first, shape = weights[0].data, (weights[0].out_features, weights[0].in_features)
    measured = Measured(8 * first.itemsize, x.shape[0], *shape, tactic, None, None, gated=True)
    run = TritonGatedLinear(chip, Tactics("", (measured,)))
    return [functools.partial(run, x, weight) for weight in weights]


def _search(form: str, place: str, weights: list[LinearWeight], device: torch.device) -> Iterator[Measured]:
    chip, outputs, inputs = Chip.of(device), weights[0].out_features, weights[0].in_features
    for rows in ROWS:
        x = _rows(form, rows, inputs, device)
        calls = functools.partial(_few_rows_calls, x, weights, chip)
        best, best_s = _fastest(candidates(weights[0].data.itemsize, rows, chip), calls)
        vendor_s = replayed_s([functools.partial(_vendor, x, weight) for weight in weights], 4)
        bits = 8 * weights[0].data.itemsize
        # Attention finds its work meanwhile, which shows in layers only.
        best = replace(best, releases=place == "qkv")
        yield Measured(bits, rows, outputs, inputs, best, round(best_s * 1e6, 1), round(vendor_s * 1e6, 1))


def _search_gated(form: str, weights: list[LinearWeight], device: torch.device) -> Iterator[Measured]:
    """With the gate in it; beside it the vendor's product and a gate."""
    from tradewind.kernels.silu_mul.triton import TritonSiluMul

    chip, size = Chip.of(device), weights[0].data.itemsize
    shape, gates = (weights[0].out_features, weights[0].in_features), TritonSiluMul(chip)
    gate = gates.quantising if form == "fp8" else gates.plain
    for rows in ROWS:
        x = _rows(form, rows, shape[1], device)
        best, best_s = _fastest(gated_candidates(size, rows, chip), functools.partial(_gated_calls, x, weights, chip))
        vendor_s = replayed_s([functools.partial(_gate_vendor, x, weight, gate) for weight in weights], 4)
        us, vendor_us = (round(each_s * 1e6, 1) for each_s in (best_s, vendor_s))
        yield Measured(8 * size, rows, *shape, best, us, vendor_us, gated=True)


def _search_fused(work: FusedWork, weights: list[LinearWeight], device: torch.device) -> MeasuredFused:
    chip = Chip.of(device)
    best, best_s = _fastest(
        fused_candidates(work, chip),
        lambda tactic: [_fused_call(work, weight, tactic, device, chip) for weight in weights],
    )
    layout, outputs, inputs = layout_of(weights[0].layout), weights[0].out_features, weights[0].in_features
    us = round(best_s * 1e6, 1)
    return MeasuredFused(layout, work.rows, outputs, inputs, work.normed, work.gated, best, us)


def _search_chained(work: ChainedWork, weights: list[LinearWeight], device: torch.device) -> MeasuredChained:
    chip = Chip.of(device)
    best, best_s = _fastest(
        chained_candidates(work, chip),
        lambda tactic: [_chained_call(work, weight, tactic, device, chip) for weight in weights],
    )
    layout, outputs, inputs = layout_of(weights[0].layout), weights[0].out_features, weights[0].in_features
    us = round(best_s * 1e6, 1)
    return MeasuredChained(layout, work.rows, outputs, inputs, is_gated(work.place), best, us)


def _gate_vendor(
    x: torch.Tensor | QuantisedRows, weight: LinearWeight, gate: Callable[[torch.Tensor], Activations]
) -> Activations:
    return gate(_vendor(x, weight))


def _vendor(x: torch.Tensor | QuantisedRows, weight: LinearWeight) -> torch.Tensor:
    if isinstance(x, QuantisedRows):
        return fp8.by_vendor(x, weight)
    return by_torch(x, weight)
