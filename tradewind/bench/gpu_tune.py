"""The search for tactics of products of few rows, which is never done while serving: `bench gpu --parts tune`.

Every tactic is compiled by several processes first, so that the measuring one finds it in Triton's cache. What comes
out is a table like those shipped in tradewind/kernels/linear/tactics.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tradewind.bench.gpu_kernels import layer_shapes, replayed_s
from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import LinearWeight, fp8, reference
from tradewind.kernels.linear.tactics import Tactic
from tradewind.kernels.linear.torch_linear import linear as by_torch
from tradewind.kernels.quantised_rows import QuantisedRows, quantise_rows

ROWS = (16, 64)
_SHARED_BYTES = 220_000  # of a multiprocessor, for one program
_TURN_BYTES = 400 << 20


def tune(options: argparse.Namespace, device: torch.device) -> Path:
    """Search for the fastest tactic of every shape of options.config; the table's path, in options.out."""
    import triton

    workers = max(1, (os.cpu_count() or 2) - 1)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        pool.map(_compile_part, [(part, workers, tuple(options.forms)) for part in range(workers)])
    shape = json.loads((options.config / "config.json").read_text())
    entries: list[dict[str, Any]] = []
    for form in options.forms:
        for outputs, inputs in layer_shapes(shape).values():
            entries.extend(_search(form, outputs, inputs, device))
    table = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": str(torch.__version__),
        "triton": str(triton.__version__),
        "linear": entries,
    }
    major, minor = torch.cuda.get_device_capability(device)
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / f"sm_{major}{minor}.json"
    path.write_text(json.dumps(table, indent=1))
    return path


def candidates(size: int, rows: int) -> Iterator[Tactic]:
    """Tactics worth trying for weights of `size` bytes a number."""
    choices = itertools.product((16, 32, 64, 128), (128, 256, 512), (4, 8), (3, 4, 5, 6), (False, True))
    for outputs, inputs, warps, stages, rows_first in choices:
        tile = outputs * inputs * size * stages
        whole = tile + (max(64, rows) if rows_first else rows) * inputs * size * stages
        is_odd = (rows_first and outputs > 64) or (not rows_first and outputs < 64 and warps == 8)
        if tile >= 48_000 and whole <= _SHARED_BYTES and not is_odd:
            yield Tactic(outputs, inputs, warps, stages, rows_first)


def _weights(form: str, outputs: int, inputs: int, device: torch.device, nbytes: int) -> list[LinearWeight]:
    pack = fp8.pack if form == "fp8" else reference.pack
    count = max(1, nbytes // (outputs * inputs * (1 if form == "fp8" else 2)))
    return [pack(torch.randn(outputs, inputs, device=device).bfloat16(), None) for _ in range(count)]


def _rows(form: str, rows: int, inputs: int, device: torch.device) -> torch.Tensor | QuantisedRows:
    x_TD = torch.randn(rows, inputs, device=device).bfloat16()
    return quantise_rows(x_TD) if form == "fp8" else x_TD


def _compile_part(work: tuple[int, int, tuple[str, ...]]) -> None:
    from triton.runtime.errors import TritonError

    from tradewind.kernels.linear.triton import few_rows

    part, parts, forms = work
    device = torch.device("cuda", 0)
    chip = Chip.of(device)
    jobs = [(form, rows, one) for form in forms for rows in ROWS for one in candidates(1 if form == "fp8" else 2, rows)]
    for form, rows, tactic in jobs[part::parts]:
        (weight,) = _weights(form, 256, 4096, device, 1)
        try:
            few_rows(_rows(form, rows, 4096, device), weight, None, torch.bfloat16, tactic, chip)
        except TritonError:  # the compiler needs more than there is: the search leaves it out, too
            continue


def _search(form: str, outputs: int, inputs: int, device: torch.device) -> Iterator[dict[str, Any]]:
    from triton.runtime.errors import TritonError

    from tradewind.kernels.linear.triton import few_rows

    chip, weights = Chip.of(device), _weights(form, outputs, inputs, device, _TURN_BYTES)
    for rows in ROWS:
        x = _rows(form, rows, inputs, device)
        times_s: dict[Tactic, float] = {}
        for tactic in candidates(weights[0].data.itemsize, rows):
            call = functools.partial(few_rows, residual_TN=None, out_dtype=torch.bfloat16, tactic=tactic, chip=chip)
            try:
                times_s[tactic] = replayed_s([functools.partial(call, x, weight) for weight in weights], 4)
            except TritonError:
                continue
        best = min(times_s, key=lambda tactic: times_s[tactic])
        vendor_s = replayed_s([functools.partial(_vendor, x, weight) for weight in weights], 4)
        yield {
            "bits": 8 * weights[0].data.itemsize,
            "rows": rows,
            "outputs": outputs,
            "inputs": inputs,
            "tactic": asdict(best),
            "us": round(times_s[best] * 1e6, 1),
            "vendor_us": round(vendor_s * 1e6, 1),
        }


def _vendor(x: torch.Tensor | QuantisedRows, weight: LinearWeight) -> torch.Tensor:
    if isinstance(x, QuantisedRows):
        return fp8.by_vendor(x, weight)
    return by_torch(x, weight)
