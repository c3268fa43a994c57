"""`tradewind bench gpu`: a GPU's kernels, and a model on it, beside what the card can do at most.

First the gate: every kernel, compiled on all cores, against float64 (gpu_gate.py). It says part by part what held, and
nothing is timed while it is red. Then what the card reaches (a large copy, large matrix products), the kernels, and a
model of the given config.json with random weights: decode at batch 1 and 64 beside the time that reading weights and KV
takes at the measured bandwidth, offline throughput, a profile of decode steps, and serving over HTTP. Times are of the
whole engine, scheduler included, but for the kernels.
"""

import argparse
import functools
import gc
import itertools
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tradewind.base.errors import ConfigError
from tradewind.base.units import format_bytes
from tradewind.bench import gpu_gate, gpu_serve, gpu_tune, gpu_tune_layers
from tradewind.bench.gpu_kernels import FORMS, ceilings, kernels, tell_of_compiling
from tradewind.bench.gpu_profile import profile_steps
from tradewind.bench.report import Report, Row
from tradewind.config import Config, from_flat
from tradewind.engine.core import Engine, build_engine
from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.protocol.plan import RunnerInfo
from tradewind.protocol.request import EngineRequest, RowSampling
from tradewind.runner.boot_device import why_no_cuda
from tradewind.runner.graph_runner import GraphRunner
from tradewind.runner.machine import usable_cpus

PARTS = ("gate", "ceilings", "kernels", "decode", "profile", "offline", "serve", "tune", "tune-layers")
_USUAL = [part for part in PARTS if not part.startswith("tune")]
_DECODED = 200  # tokens of each row of a decode
_OFFLINE = ("1000/1000x1000", "128/128x3000", "2048/128x1000")


def main(arguments: list[str]) -> int:
    """Run the parts in order; 1 if the gate is red."""
    options = _parse(arguments)
    why_not = why_no_cuda()
    if why_not is not None:
        raise ConfigError(f"bench gpu needs a GPU: {why_not}; `tradewind doctor --gpu h200` says what one would do")
    device = torch.device("cuda", 0)
    torch.manual_seed(options.seed)
    random.seed(options.seed)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    if "gate" in options.parts and not _gate(device):
        return 1
    copy_bytes_per_s = ceilings(options, device) if "ceilings" in options.parts else float("nan")
    if "kernels" in options.parts:
        kernels(options, device)
    if "tune" in options.parts:
        print(gpu_tune.tune(options, device))
    if "tune-layers" in options.parts:
        print(gpu_tune_layers.tune_layers(options, device))
    made = {**vars(options), "gpu": torch.cuda.get_device_name(device)}
    if {"decode", "profile", "offline"} & set(options.parts):
        report = Report("gpu", made)
        for form in options.forms:
            for row in _in_process(options, form, copy_bytes_per_s):
                report.add(row)
        report.print()
        print(report.write(options.out))
    if "serve" in options.parts:
        report = Report("gpu serve", made)
        for form in options.forms:
            for row in gpu_serve.serve(options, form, _settings(options, form)):
                report.add(row)
        report.print()
        print(report.write(options.out))
    return 0


def _in_process(options: argparse.Namespace, form: str, copy_bytes_per_s: float) -> Iterator[Row]:
    """What is measured of an engine in this process."""
    with _engine(options, form) as model:
        if "decode" in options.parts:
            for batch in options.batch:
                if batch <= _most_rows(model.runner.info, 1024 + _DECODED):
                    yield _decode(model, form, batch, copy_bytes_per_s)
                else:
                    print(f"{form}: {batch} rows of {1024 + _DECODED} tokens cannot run at once: left out")
        if "profile" in options.parts:
            _profile(model, form)
        if "offline" in options.parts:
            for work in options.offline:
                yield _offline(model, form, *work)
        recorded = model.runner.report
        print(f"{form}: {recorded.replays} graphs replayed, {recorded.eager} steps launched kernel by kernel")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tradewind bench gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a model's config.json, or its folder")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=_USUAL,
        help="'tune' searches for tactics by themselves, 'tune-layers' for those of one row, or two, within layers",
    )
    forms: dict[str, Any] = {"nargs": "+", "choices": FORMS, "default": ["bf16", "fp8"]}
    parser.add_argument("--forms", **forms, help="of the weights; keys and values are in 8 bits beside all but bf16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64], help="rows of the decode measurements")
    works: dict[str, Any] = {"type": _work, "nargs": "+", "default": [_work(text) for text in _OFFLINE]}
    parser.add_argument("--offline", **works, metavar="IN/OUTxN", help="tokens in and out of N requests")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32, 256], help="clients of the serving part")
    copies: dict[str, Any] = {"choices": ("auto", "on", "off"), "default": "auto"}
    parser.add_argument("--one-row-copy", **copies, help="of the weights of the form bf16: as the engine's option")
    parser.add_argument("--exact", action="store_true", help="with tokens that do not depend on the batch")
    parser.add_argument("--max-running", type=int, default=512)
    parser.add_argument("--step-tokens", type=int, default=8192)
    parser.add_argument("--max-model-len", type=int, default=4352)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    options = parser.parse_args(arguments)
    options.config = options.config if options.config.is_dir() else options.config.parent
    return options


def _work(text: str) -> tuple[int, int, int]:
    sizes, _, count = text.partition("x")
    tokens_in, _, tokens_out = sizes.partition("/")
    return int(tokens_in), int(tokens_out), int(count)


def _gate(device: torch.device) -> bool:
    """Whether all checks pass. What held is said part by part: all is told of a run that is cut off, too."""
    ready = ReadyKernels(usable_cpus())
    ready.watch()
    ready.prepare(lambda: deque(gpu_gate.checks(device), 0), tell_of_compiling)
    print(f"gate: {ready.count} kernels made ready in {ready.seconds:.1f} s", flush=True)
    passed, count = 0, 0
    for name, part in gpu_gate.parts(device):
        begun_s, found = time.perf_counter(), list(part)
        for check in found:
            if not check.passed:
                print(f"WRONG: {check.what}: error {check.error:.2e}, allowed {check.limit:.0e}", flush=True)
        good = sum(check.passed for check in found)
        print(f"gate: {name}: {good} of {len(found)}, {time.perf_counter() - begun_s:.1f} s", flush=True)
        passed, count = passed + good, count + len(found)
    print(f"gate: {passed} of {count} checks passed", flush=True)
    return passed == count


# --- a model ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    engine: Engine
    runner: GraphRunner

    @property
    def vocab(self) -> int:
        return self.runner.info.vocab_size


@contextmanager
def _engine(options: argparse.Namespace, form: str) -> Iterator[_Model]:
    begun_s = time.perf_counter()
    engine = build_engine(options.config, _config(options, form), lambda _stage, _share: None)
    runner = engine.runner
    assert isinstance(runner, GraphRunner)
    info, recorded = runner.info, runner.report
    print(
        f"{form}: ready in {time.perf_counter() - begun_s:.1f} s; weights {format_bytes(info.weights_bytes)}, "
        f"KV {format_bytes(info.kv_bytes)}, {recorded.recorded} of {recorded.wanted} graphs in "
        f"{recorded.seconds:.1f} s and {format_bytes(recorded.nbytes)} after {recorded.compiling_seconds:.1f} s of "
        f"compiling {runner.compiled_kernels} kernels, "
        f"{format_bytes(torch.cuda.mem_get_info()[0])} left"
    )
    try:
        yield _Model(engine, runner)
    finally:
        engine.close()
        del engine, runner
        gc.collect()
        torch.cuda.empty_cache()


def _config(options: argparse.Namespace, form: str) -> Config:
    return from_flat({"model": str(options.config), **_settings(options, form)})


def _settings(options: argparse.Namespace, form: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "load_format": "dummy",
        "device": "cuda",
        "max_running": options.max_running,
        "step_tokens": options.step_tokens,
        "max_model_len": options.max_model_len,
        "max_waiting": 1 << 30,
        "prefix_caching": False,
        "exact": options.exact,
    }
    settings |= {"one_row_copy": options.one_row_copy} if form == "bf16" else {"quantization": form}
    if form not in ("bf16", "lossless"):
        settings |= {"kv_dtype": "fp8"}
    return settings


def _requests(model: _Model, tokens_in: int, tokens_out: int, count: int) -> list[EngineRequest]:
    return [
        EngineRequest(
            request_id=random.getrandbits(48),
            prompt_tokens=random.choices(range(10, model.vocab), k=tokens_in),
            sampling=RowSampling(seed=0, temperature=0.0),
            max_tokens=tokens_out,
        )
        for _ in range(count)
    ]


def _drain(engine: Engine) -> Iterator[int]:
    """Step until nothing is left; gives the tokens said by each step."""
    while engine.has_work:
        yield sum(len(updates.tokens) for updates in engine.step())


def _decode(model: _Model, form: str, batch: int, copy_bytes_per_s: float) -> Row:
    """A steady decode: the mean of its full steps, prompts of 1,024 tokens."""
    for request in _requests(model, 1024, _DECODED, batch):
        model.engine.add(request)
    steps: list[tuple[float, int]] = []
    last_s = time.perf_counter()
    for tokens in _drain(model.engine):
        now_s = time.perf_counter()
        steps.append((now_s - last_s, tokens))
        last_s = now_s
    full = [seconds for seconds, tokens in steps if tokens == batch][10:-2]
    step_s = sum(full) / len(full)
    info = model.runner.info
    token_bytes = info.kv_bytes / (info.num_blocks * info.block_tokens)
    spec = model.runner.spec
    # Without the copies for one row: the floor of 16-bit weights stays what it is, whether one row reads fewer or not.
    read_bytes = info.weights_bytes - model.runner.copy_bytes + batch * (1024 + _DECODED / 2) * token_bytes
    if not (spec.tied and form == "bf16"):  # where it is not the output layer, too
        read_bytes -= spec.vocab * spec.hidden * spec.dtype.itemsize  # the embedding
    return {
        "form": form,
        "work": f"decode, {batch} x 1024",
        "output tok/s": batch / step_s,
        "total tok/s": batch / step_s,
        "ms": step_s * 1e3,
        "share of floor": read_bytes / copy_bytes_per_s / step_s,
    }


def _most_rows(info: RunnerInfo, tokens: int) -> int:
    """So many sequences of so many tokens can run at once."""
    return min(info.max_running, info.num_blocks // -(-tokens // info.block_tokens))


def _offline(model: _Model, form: str, tokens_in: int, tokens_out: int, count: int) -> Row:
    for request in _requests(model, tokens_in, tokens_out, count):
        model.engine.add(request)
    begun_s = time.perf_counter()
    said = sum(_drain(model.engine))
    elapsed_s = time.perf_counter() - begun_s
    assert said == count * tokens_out, (said, count * tokens_out)
    return {
        "form": form,
        "work": f"offline {tokens_in}/{tokens_out}, {count} requests",
        "output tok/s": said / elapsed_s,
        "total tok/s": (said + count * tokens_in) / elapsed_s,
        "ms": elapsed_s * 1e3,
        "share of floor": float("nan"),
    }


def _profile(model: _Model, form: str) -> None:
    """Decode steps of one row, of 64 and of as many as may run, and steps full of prompts: each kernel's share."""
    layers, info = model.runner.spec.layers, model.runner.info
    most = _most_rows(info, 1200)
    for batch in sorted({1, min(64, most), most}):
        steps = _issue(model, 1024, 160, batch)
        while next(steps) < batch:
            pass
        _skip(steps, 5)
        print(f"{form}, {batch} x 1024:", profile_steps(functools.partial(next, steps), 10, layers))
        _skip(steps)
    steps = _issue(model, 2048, 2, 10 * info.step_tokens // 2048)
    _skip(steps, 3)
    print(f"{form}, prompts of 2048:", profile_steps(functools.partial(next, steps), 4, layers))
    _skip(steps)


def _issue(model: _Model, tokens_in: int, tokens_out: int, count: int) -> Iterator[int]:
    """The steps of so many requests, as in _drain."""
    for request in _requests(model, tokens_in, tokens_out, count):
        model.engine.add(request)
    return _drain(model.engine)


def _skip(steps: Iterator[int], count: int | None = None) -> None:
    """Take so many steps, or all that are left."""
    for _ in itertools.islice(steps, count):
        pass
