"""`tradewind bench step`: single steps of a model in this process, beside what the machine allows at most.

A work is ROWSxCACHED+NEW: so many rows, each with CACHED tokens in the KV cache and NEW ones to compute; 32x319+1 is a
decode step of 32 streams, 1x0+512 a prompt. A variant is QUANTIZATION/KV, as the settings of these names. All
variants of a work take turns, and the best time of each counts. The bound is the time to read the weights and the
rows' keys and values once, or to do the multiplications, whichever is longer, at what this machine reaches (the first
lines of the table). `dispatch` is a step of a model of as many layers that has next to nothing to compute: what Python
and calling the kernels cost.
"""

import argparse
import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tradewind.bench.ceilings import Ceilings, best_s, measure_ceilings
from tradewind.bench.report import Report, Row
from tradewind.config import Config, from_flat
from tradewind.engine.model_files import locate
from tradewind.kernels import mask_logits
from tradewind.kernels import sample as sampling
from tradewind.kernels.int8_pages import quantise
from tradewind.kernels.pages import KVPool
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model, load_spec
from tradewind.protocol.plan import RowStart, RunnerInfo, StepPlan
from tradewind.protocol.request import RowSampling
from tradewind.runner.boot_device import kv_dtype, ops_for, with_dtype
from tradewind.runner.machine import usable_cpus
from tradewind.runner.runner import DeviceRunner
from tradewind.runner.sample import SampleOps

_BLOCK_TOKENS = 16
_WORKS = ("1x255+1", "8x319+1", "32x319+1", "1x15999+1", "1x0+100", "1x3900+100", "1x0+512")
_VARIANTS = ("none/auto", "none/int8", "int8/auto", "int4/auto")
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 64,
}
_DUMMY = {"load_format": "dummy"}
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Work:
    """Rows of a step, all alike."""

    rows: int
    cached: int
    new: int

    @classmethod
    def parse(cls, text: str) -> "Work":
        """From ROWSxCACHED+NEW. ValueError if it is not that."""
        rows, _, rest = text.partition("x")
        cached, _, new = rest.partition("+")
        return cls(int(rows), int(cached), int(new))

    def __str__(self) -> str:
        return f"{self.rows}x{self.cached}+{self.new}"

    @property
    def blocks(self) -> int:
        """Of one row."""
        return -(-(self.cached + self.new) // _BLOCK_TOKENS)


@dataclass(frozen=True)
class Variant:
    """A loaded model, and a pool full of numbers."""

    name: str
    model: Model
    pool: KVPool
    threads: int

    def step(self, work: Work, seed: int) -> DeviceRunner:
        """A runner that has taken one step of this work; `repeat_plan` takes another."""
        spec = self.model.spec
        info = RunnerInfo(
            num_blocks=self.pool.num_blocks,
            block_tokens=_BLOCK_TOKENS,
            max_model_len=self.model.max_positions,
            max_running=work.rows,
            step_tokens=work.rows * work.new,
            vocab_size=spec.vocab,
            asynchronous=False,
            device="cpu",
            dtype=str(spec.dtype),
            weights_bytes=self.model.weights_bytes,
            kv_bytes=self.pool.nbytes,
        )
        ops = SampleOps(sampling.choose(_CPU).run, mask_logits.choose(_CPU).run)
        runner = DeviceRunner(self.model, self.pool, info, ops, threads=self.threads)
        runner.run(first_plan(work, spec.vocab, seed)).result()
        return runner

    def read_bytes(self, work: Work) -> int:
        """Of weights, keys and values: what a step reads at least."""
        layers = sum(layer.nbytes for layer in self.model.layers)
        kv_bytes = self.pool.nbytes / self.pool.num_blocks / _BLOCK_TOKENS * work.rows * (work.cached + work.new)
        return layers + self.model.lm_head.nbytes + int(kv_bytes)

    def operations(self, work: Work) -> float:
        """Of all products of a step: two for each number of a weight and token, or of a key or value and query."""
        spec = self.model.spec
        attention = spec.head_dim * 2 * (spec.heads + spec.kv_heads)
        per_token = spec.layers * spec.hidden * (attention + 3 * spec.ffn)
        pairs = work.new * work.cached + work.new * (work.new + 1) / 2
        products: float = work.new * per_token + spec.hidden * spec.vocab
        products += 2 * spec.layers * spec.heads * spec.head_dim * pairs
        return 2.0 * work.rows * products


def main(arguments: list[str]) -> int:
    """Measure; prints a table, writes JSON and PNG."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads or usable_cpus())
    report = Report("step", {**vars(options), "threads": torch.get_num_threads()})
    ceilings = measure_ceilings(options.repeat)
    report.rows.append(_row("ceiling", "read", None, ceilings.read, 0, None))
    report.rows.append(_row("ceiling", "multiply", None, 0, ceilings.multiply, None))
    report.rows.append(_row("ceiling", "multiply int8", None, 0, ceilings.multiply_int8, None))
    directory = locate(options.model, None, weights=not options.dummy)
    settings = {"instruction_set": options.instruction_set}
    report.rows.append(_row("dispatch", "1x15+1", dispatch_s(directory, settings, options.repeat), 0, 0, None))
    works = [Work.parse(text) for text in options.works]
    blocks = max(work.rows * work.blocks for work in works)
    settings |= _DUMMY if options.dummy else {}
    variants = [load_variant(directory, name, blocks, settings) for name in options.variants]
    for work in works:
        report.rows.extend(measure(work, variants, ceilings, options))
    report.print()
    print(report.write(options.out))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tradewind bench step", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL")
    parser.add_argument("--works", nargs="+", default=_WORKS, metavar="ROWSxCACHED+NEW")
    parser.add_argument("--variants", nargs="+", default=_VARIANTS, metavar="QUANTIZATION/KV")
    parser.add_argument("--dummy", action="store_true", help="random weights from config.json alone")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the cores this process may use)")
    parser.add_argument("--instruction-set", default="auto", help="of the kernels: auto, or as the setting of `serve`")
    parser.add_argument("--repeat", type=int, default=5, help="steps of each work and variant; the best counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    return parser.parse_args(arguments)


def load_variant(directory: Path, name: str, blocks: int, settings: Mapping[str, str] | None = None) -> Variant:
    """Load a model as these and further settings would, with a pool of at least so many blocks, all of them full."""
    quantization, _, kv = name.partition("/")
    config = from_flat({"quantization": quantization, "kv_dtype": kv or "auto", **(settings or {})})
    model_config = with_dtype(directory, config.model, _CPU)
    spec = load_spec(directory, model_config)
    model = load_model(directory, model_config, _CPU, ops_for(config, _CPU, spec))
    return Variant(name, model, _full_pool(model, config, blocks), torch.get_num_threads())


def _full_pool(model: Model, config: Config, blocks: int) -> KVPool:
    spec = model.spec
    one = KVPool.allocate(spec.pool_shape(1, _BLOCK_TOKENS), spec.dtype).blocks_BL2GSK.normal_()
    dtype = kv_dtype(spec, config, _CPU)
    pool = KVPool.allocate(spec.pool_shape(blocks, _BLOCK_TOKENS), dtype)
    pool.blocks_BL2GSK.copy_(quantise(one) if dtype == torch.uint8 else one)
    return pool


def first_plan(work: Work, vocab: int, seed: int) -> StepPlan:
    """All rows begin, with random tokens, and with what is cached taken for computed."""
    tokens_RT = np.random.default_rng(seed).integers(0, vocab, (work.rows, work.cached + work.new), np.int32)
    greedy = RowSampling(seed=0, temperature=0.0)
    starts = tuple(RowStart(row, tokens_T, len(tokens_T), greedy, ()) for row, tokens_T in enumerate(tokens_RT))
    blocks = np.arange(work.rows * work.blocks, dtype=np.int32)
    order = np.random.default_rng(seed).permutation(blocks)
    return dataclasses.replace(
        repeat_plan(work, 0),
        starts=starts,
        block_slots=blocks // work.blocks,
        block_starts=blocks % work.blocks,
        block_ids=order.astype(np.int32),
    )


def repeat_plan(work: Work, step: int) -> StepPlan:
    """The same tokens once more."""
    ones, nothing = np.ones(work.rows, np.int32), np.zeros(0, np.int32)
    return StepPlan(
        step=step,
        slots=np.arange(work.rows, dtype=np.int32),
        computed_tokens=ones * work.cached,
        new_tokens=ones * work.new,
        sample=np.ones(work.rows, np.bool_),
        starts=(),
        block_slots=nothing,
        block_starts=nothing,
        block_ids=nothing,
    )


def measure(work: Work, variants: list[Variant], ceilings: Ceilings, options: argparse.Namespace) -> list[Row]:
    """One row of the table for each variant."""
    runners = [variant.step(work, options.seed) for variant in variants]
    times_s = best_s([functools.partial(_again, runner, work) for runner in runners], options.repeat)
    return [
        _row(str(work), variant.name, time_s, *_rates(variant, work, time_s), _bound_s(variant, work, ceilings))
        for variant, time_s in zip(variants, times_s, strict=True)
    ]


def _again(runner: DeviceRunner, work: Work) -> None:
    runner.run(repeat_plan(work, 1)).result()


def _rates(variant: Variant, work: Work, time_s: float) -> tuple[float, float]:
    return variant.read_bytes(work) / time_s, variant.operations(work) / time_s


def _bound_s(variant: Variant, work: Work, ceilings: Ceilings) -> float:
    multiply = ceilings.multiply if variant.name.startswith(("none", "lossless")) else ceilings.multiply_int8
    return max(variant.read_bytes(work) / ceilings.read, variant.operations(work) / multiply)


def dispatch_s(directory: Path, settings: Mapping[str, str], repeat: int) -> float:
    """A decode step of one row of a model of the same family and depth, with nothing to compute; one thread."""
    config = json.loads((directory / "config.json").read_text()) | _TINY
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        variant = dataclasses.replace(load_variant(Path(folder), "none/auto", 1, {**settings, **_DUMMY}), threads=1)
    work, threads = Work(1, 15, 1), torch.get_num_threads()
    runner = variant.step(work, 0)
    (time_s,) = best_s([functools.partial(_again, runner, work)], 20 * repeat)
    torch.set_num_threads(threads)
    return time_s


def _row(work: str, variant: str, time_s: float | None, read: float, operations: float, bound_s: float | None) -> Row:
    nan = float("nan")
    return {
        "work": work,
        "variant": variant,
        "ms": time_s * 1e3 if time_s else nan,
        "GB/s": read / 1e9,
        "GFLOP/s": operations / 1e9,
        "bound ms": bound_s * 1e3 if bound_s else nan,
        "of the bound": bound_s / time_s if bound_s and time_s else nan,
    }
