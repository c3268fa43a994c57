"""`tradewind bench offline`: all requests at once through `LLM`, without HTTP: the engine's own throughput.

Settings of the engine are given as `--set load_format=dummy --set max_running=64`.
"""

import argparse
import random
import time
from pathlib import Path

from tradewind.bench.report import Report
from tradewind.engine.llm import LLM
from tradewind.protocol.sampling import SamplingParams


def main(arguments: list[str]) -> int:
    """Generate for every concurrency asked for; prints a table, writes JSON and PNG."""
    options, settings = _parse(arguments)
    report = Report("offline", {**vars(options), **settings})
    llm = LLM(options.model, **settings)
    params = SamplingParams(temperature=0, max_tokens=options.output_tokens, ignore_eos=True)
    for concurrency in options.concurrency:
        rng = random.Random(f"{options.seed}/{concurrency}")
        prompts = [
            [rng.randrange(10, options.vocab_size) for _ in range(options.input_tokens)] for _ in range(concurrency)
        ]
        llm.generate(prompts[:1], SamplingParams(temperature=0, max_tokens=2), progress=False)
        started_s = time.perf_counter()
        outputs = llm.generate(prompts, params, progress=False)
        elapsed_s = time.perf_counter() - started_s
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        report.rows.append(
            {
                "requests": concurrency,
                "input tok/s": concurrency * options.input_tokens / elapsed_s,
                "output tok/s": tokens / elapsed_s,
                "seconds": elapsed_s,
            }
        )
    report.print()
    print(report.write(options.out))
    report.plot(options.out, "requests", ["output tok/s"])
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(prog="tradewind bench offline", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="?", default="demo", metavar="MODEL")
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=400, help="random ids stay below this")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="requests at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the engine")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for JSON and PNG")
    options = parser.parse_args(arguments)
    pairs = [pair.partition("=") for pair in options.set]
    return options, {name.replace("-", "_"): value for name, _, value in pairs}
