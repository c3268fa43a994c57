"""Serving over HTTP from a GPU: `bench gpu --parts serve`.

A `tradewind serve` of one's own with random weights, its start timed from the process to the first token, then a
closed loop of clients. How many kernels were compiled meanwhile is asked of /metrics before and after.
"""

import argparse
import asyncio
import json
import random
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tradewind.bench.http import Endpoint, get, served_model
from tradewind.bench.report import Row
from tradewind.bench.serve import Work, measure
from tradewind.bench.server_process import start_server
from tradewind.bench.startup import first_answer

_TOKENS_IN, _TOKENS_OUT = 1000, 200


def serve(options: argparse.Namespace, form: str, settings: dict[str, object]) -> Iterator[Row]:
    """A row for each concurrency in options.concurrency. `settings`: of the engine, by their names in the tree."""
    with tempfile.TemporaryDirectory() as folder:
        vocab_size = _write_model(options.config, Path(folder))
        begun_s = time.perf_counter()
        with start_server(folder, ["--log-level", "error", *_as_options(settings)]) as (_, port):
            endpoint = Endpoint("127.0.0.1", port)
            asyncio.run(first_answer(endpoint))
            print(f"{form}: first token {time.perf_counter() - begun_s:.1f} s after the process began", flush=True)
            yield from _loads(options, form, endpoint, vocab_size)


def _loads(options: argparse.Namespace, form: str, endpoint: Endpoint, vocab_size: int) -> Iterator[Row]:
    work = Work(asyncio.run(served_model(endpoint)), _TOKENS_IN, _TOKENS_OUT, vocab_size)
    for concurrency in options.concurrency:
        rng = random.Random(f"{options.seed}/{concurrency}")
        bodies = [work.body(rng, number) for number in range(3 * concurrency + 1)]
        before = asyncio.run(_compiled(endpoint))
        row = measure(endpoint, bodies, concurrency=concurrency)
        compiled = asyncio.run(_compiled(endpoint)) - before
        yield {"form": form, "work": f"{_TOKENS_IN}/{_TOKENS_OUT}", **row, "kernels compiled": compiled}


def _write_model(source: Path, folder: Path) -> int:
    """The configuration, and a tokenizer in which every token is a word; the size of its vocabulary."""
    text = (source / "config.json").read_text()
    vocab_size = int(json.loads(text)["vocab_size"])
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {f"\u0120w{token}": token for token in range(vocab_size)}, "merges": []},
    }
    (folder / "config.json").write_text(text)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return vocab_size


async def _compiled(endpoint: Endpoint) -> int:
    _, page = await get(endpoint, "/metrics")
    found = re.search(rb"^tradewind:kernels_compiled_total\{[^}]*\} (\S+)$", page, re.MULTILINE)
    assert found is not None, "the server does not say how many kernels were compiled"
    return int(float(found[1]))


def _as_options(settings: dict[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield from (f"--{option}", str(value))
