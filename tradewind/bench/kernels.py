"""`tradewind bench kernels`: the CPU kernels beside torch's, and beside what this machine can do at most.

The shapes are those of a 0.6B model (Qwen3-0.6B): 28 layers of hidden 1024, ffn 3072, 16 query and 8 key-value heads of
128, and a vocabulary of 151,936. `linear` is the stack of all its products, one after the other, so that weights come
from memory and not from a cache; above 32 rows without the output layer, which sees one row of a prompt only.
"""

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from tradewind.bench.report import Report, Row
from tradewind.kernels import native
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.cpu import NativeLinear
from tradewind.kernels.memory import empty
from tradewind.kernels.paged_attention import PagedAttention, torch_sdpa
from tradewind.kernels.paged_attention.cpu import NativePagedAttention
from tradewind.kernels.pages import KVPool, PoolShape
from tradewind.kernels.rows import Rows

LAYERS, HEADS, KV_HEADS, HEAD_DIM, BLOCK_TOKENS = 28, 16, 8, 128, 16
LAYER_SHAPES_NK = ((4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072))
HEAD_SHAPE_NK = (151936, 1024)
LINEAR_ROWS = (1, 8, 32, 256, 512)
# (rows, context, new tokens of each row)
ATTENTION_ROWS = ((1, 320, 1), (32, 320, 1), (1, 16000, 1), (1, 512, 512))
DTYPE = torch.bfloat16


def main(arguments: list[str]) -> int:
    """Measure, print a table, write JSON. Native and torch take turns; each figure is the best of the repeats."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    library = native.load(options.level)
    if library.why_not is not None:
        print(library.why_not)
        return 1
    settings = {**vars(options), "threads": torch.get_num_threads(), "level": library.level}
    report = Report("kernels", settings)
    report.rows.extend(_ceilings(library, options.repeat))
    report.rows.extend(_linear(library, options.repeat))
    report.rows.extend(_attention(library, options.repeat))
    report.print()
    print(report.write(options.out))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tradewind bench kernels", description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each measurement; the best counts")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--level", choices=list(native.LEVELS), help="instruction set (default: the best one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for the JSON file")
    return parser.parse_args(arguments)


def best_s(calls: Sequence[Callable[[], object]], repeat: int) -> list[float]:
    """The shortest time of each call, in seconds. They take turns, so that a change of the machine's pace hits all."""
    times_s = [float("inf")] * len(calls)
    for _ in range(repeat + 1):
        for index, call in enumerate(calls):
            start_s = time.perf_counter()
            call()
            times_s[index] = min(times_s[index], time.perf_counter() - start_s)
    return times_s


def _row(work: str, native_s: float, torch_s: float | None, read_bytes: float, operations: float) -> Row:
    return {
        "work": work,
        "ms": native_s * 1e3,
        "GB/s": read_bytes / native_s / 1e9,
        "GFLOP/s": operations / native_s / 1e9,
        "torch ms": float("nan") if torch_s is None else torch_s * 1e3,
        "times torch": float("nan") if torch_s is None else torch_s / native_s,
    }


def _ceilings(library: native.Library, repeat: int) -> list[Row]:
    """What the machine can do: reading memory once, and multiplying what lies in the caches."""
    plain = empty((1 << 28,), torch.float32).fill_(1)
    (read_s,) = best_s([plain.sum], repeat)
    ops = NativeLinear(library)
    n, k, rows = 1024, 512, 96
    weight = ops.pack(torch.randn(n, k).to(DTYPE), None)
    x_TD = torch.randn(rows, k).to(DTYPE)
    (multiply_s,) = best_s([lambda: [ops.linear(x_TD, weight) for _ in range(100)]], repeat)
    return [
        _row("ceiling: read 1 GiB", read_s, None, plain.nbytes, 0),
        _row("ceiling: multiply in cache", multiply_s, None, 0, 100 * 2.0 * n * k * rows),
    ]


def _linear(library: native.Library, repeat: int) -> list[Row]:
    ops = NativeLinear(library)
    shapes = [*LAYER_SHAPES_NK * LAYERS, HEAD_SHAPE_NK]
    plain = [torch.empty(shape, dtype=DTYPE).normal_() for shape in shapes]
    packed = [ops.pack(weight_ND, None) for weight_ND in plain]
    table = []
    for rows in LINEAR_ROWS:
        used = slice(None) if rows <= 32 else slice(0, -1)
        inputs = {k: torch.randn(rows, k).to(DTYPE) for _, k in shapes}
        by_native, by_torch = best_s(
            [
                functools.partial(_multiply_native, ops, inputs, packed[used]),
                functools.partial(_multiply_torch, inputs, plain[used]),
            ],
            repeat,
        )
        weights = sum(n * k for n, k in shapes[used])
        table.append(_row(f"linear, {rows} rows", by_native, by_torch, 2.0 * weights, 2.0 * weights * rows))
    return table


def _multiply_native(ops: NativeLinear, inputs: dict[int, Tensor], weights: list[LinearWeight]) -> None:
    for weight in weights:
        ops.linear(inputs[weight.in_features], weight)


def _multiply_torch(inputs: dict[int, Tensor], weights: list[Tensor]) -> None:
    for weight_ND in weights:
        functional.linear(inputs[weight_ND.shape[1]], weight_ND)


def _attention(library: native.Library, repeat: int) -> list[Row]:
    attend = NativePagedAttention(library)
    table = []
    for count, context, new in ATTENTION_ROWS:
        rows, pool = attention_rows(count, context, new)
        q_THK = torch.randn(count * new, HEADS, HEAD_DIM).to(DTYPE)
        by_native, by_torch = best_s(
            [
                functools.partial(_attend_layers, attend, q_THK, pool, rows),
                functools.partial(_attend_layers, torch_sdpa.paged_attention, q_THK, pool, rows),
            ],
            repeat,
        )
        pairs = count * (new * (context - new) + new * (new + 1) / 2)
        read_bytes = LAYERS * count * context * KV_HEADS * HEAD_DIM * 2 * DTYPE.itemsize
        work = f"attention, {count} x {new} of {context}"
        table.append(_row(work, by_native, by_torch, read_bytes, LAYERS * pairs * HEADS * HEAD_DIM * 4.0))
    return table


def _attend_layers(attend: PagedAttention, q_THK: Tensor, pool: KVPool, rows: Rows) -> None:
    for layer in range(LAYERS):
        attend(q_THK, *pool.layer(layer), rows, HEAD_DIM**-0.5)


def attention_rows(count: int, context: int, new: int) -> tuple[Rows, KVPool]:
    """`count` sequences of `context` tokens, the last `new` of them new, over scattered blocks of a filled pool."""
    blocks = -(-context // BLOCK_TOKENS)
    pool = KVPool.allocate(PoolShape(count * blocks, LAYERS, KV_HEADS, BLOCK_TOKENS, HEAD_DIM), DTYPE)
    pool.blocks_BL2GSK.normal_()
    rows = Rows(
        positions_T=torch.arange(context - new, context, dtype=torch.int32).repeat(count),
        write_T=torch.arange(count * new),
        query_starts_R1=torch.arange(0, count * new + 1, new, dtype=torch.int32),
        context_lens_R=torch.full((count,), context, dtype=torch.int32),
        block_tables_RM=torch.randperm(count * blocks).view(count, blocks).int(),
        max_query=new,
        max_context=context,
    )
    return rows, pool
