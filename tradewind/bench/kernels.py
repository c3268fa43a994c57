"""`tradewind bench kernels`: every op of the CPU kernels beside what this machine can do at most, and beside torch.

The shapes are those of a 0.6B model (Qwen3-0.6B): 28 layers of hidden 1024, ffn 3072, 16 query and 8 key-value heads of
128, and a vocabulary of 151,936. `linear` is the stack of all its products, one after the other, so that weights come
from memory and not from a cache; above 32 rows without the output layer, which sees one row of a prompt only. Attention
is that of all layers. GB/s count what must be read and written once, GFLOP/s two operations for each product. `of the
roof`: the time that the machine needs at least, reading or multiplying at its ceilings, over the time taken; ops that
find their data in a cache go through the roof of reading.
"""

import argparse
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tradewind.bench.ceilings import Ceilings, best_s, measure_ceilings
from tradewind.bench.report import Report, Row
from tradewind.bench.roofline import plot_roofline
from tradewind.kernels import native
from tradewind.kernels.add_rms_norm import reference as norm_reference
from tradewind.kernels.add_rms_norm.cpu import NativeAddRmsNorm
from tradewind.kernels.embedding.cpu import NativeEmbedding
from tradewind.kernels.int8_pages import quantise, row_width
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.cpu import NativeLinear
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear.quantised_cpu import NativeQuantised
from tradewind.kernels.paged_attention import PagedAttention, torch_sdpa
from tradewind.kernels.paged_attention.cpu import NativePagedAttention
from tradewind.kernels.pages import KVPool, PoolShape
from tradewind.kernels.qk_norm_rope_write import reference as rope_reference
from tradewind.kernels.qk_norm_rope_write.cpu import NativeQkNormRopeWrite
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.kernels.sample import SampleRows
from tradewind.kernels.sample.cpu import NativeSample
from tradewind.kernels.sample.vectorised import sample as sample_by_torch
from tradewind.kernels.silu_mul import reference as silu_reference
from tradewind.kernels.silu_mul.cpu import NativeSiluMul

LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, BLOCK_TOKENS = 28, 1024, 3072, 16, 8, 128, 16
VOCAB = 151936
LAYER_SHAPES_NK = ((4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072))
HEAD_SHAPE_NK = (VOCAB, HIDDEN)
LINEAR_ROWS = (1, 8, 32, 512)
SMALL_ROWS = (1, 32, 512)
# (rows, context, new tokens of each row)
ATTENTION_ROWS = ((1, 320, 1), (32, 320, 1), (1, 16000, 1), (1, 512, 512))
# (name, temperature, top_k, top_p)
SAMPLING = (
    ("greedy", 0.0, 0, 1.0),
    ("all", 1.0, 0, 1.0),
    ("top-p 0.9", 1.0, 0, 0.9),
    ("top-k 50 and top-p 0.9", 1.0, 50, 0.9),
)
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Work:
    """What is measured: calls that take turns, by column of the table, and what they do. `own` is the native one."""

    name: str
    own: Callable[[], object]
    torch: Callable[[], object] | None
    moved_bytes: float
    operations: float
    integers: bool = False  # multiplied as 8-bit numbers


def main(arguments: list[str]) -> int:
    """Measure; prints a table, writes JSON and a roofline plot. Native and torch take turns; the best time counts."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    library = native.load(options.instruction_set)
    if library.why_not is not None:
        print(library.why_not)
        return 1
    settings = {**vars(options), "threads": torch.get_num_threads(), "level": library.level}
    report = Report("kernels", settings)
    ceilings = measure_ceilings(options.repeat)
    report.rows.extend(_ceiling_rows(ceilings))
    for works in (_linear, _quantised, _attention, _between, _sampling):
        report.rows.extend(_measure(work, ceilings, options.repeat) for work in works(library))
    report.print()
    print(report.write(options.out))
    plot_roofline(report.rows, ceilings, options.out / "kernels.png")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tradewind bench kernels", description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeat", type=int, default=5, help="runs of each measurement; the best counts")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--instruction-set", choices=list(native.LEVELS), help="default: the machine's best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for JSON and PNG")
    return parser.parse_args(arguments)


def _ceiling_rows(ceilings: Ceilings) -> list[Row]:
    nan = float("nan")
    empty = {"ms": nan, "GB/s": nan, "GFLOP/s": nan, "of the roof": nan, "torch ms": nan, "times torch": nan}
    return [
        {"work": "ceiling: read", **empty, "GB/s": ceilings.read / 1e9},
        {"work": "ceiling: multiply", **empty, "GFLOP/s": ceilings.multiply / 1e9},
        {"work": "ceiling: multiply int8", **empty, "GFLOP/s": ceilings.multiply_int8 / 1e9},
    ]


def _measure(work: Work, ceilings: Ceilings, repeat: int) -> Row:
    own_s, torch_s = best_s([work.own, work.torch or (lambda: None)], repeat)
    roof = ceilings.multiply_int8 if work.integers else ceilings.multiply
    least_s = max(work.moved_bytes / ceilings.read, work.operations / roof)
    return {
        "work": work.name,
        "ms": own_s * 1e3,
        "GB/s": work.moved_bytes / own_s / 1e9,
        "GFLOP/s": work.operations / own_s / 1e9,
        "of the roof": least_s / own_s,
        "torch ms": torch_s * 1e3 if work.torch else float("nan"),
        "times torch": torch_s / own_s if work.torch else float("nan"),
    }


# --- linear ----------------------------------------------------------------------------------------------------------


def _linear(library: native.Library) -> list[Work]:
    ops = NativeLinear(library)
    shapes = [*LAYER_SHAPES_NK * LAYERS, HEAD_SHAPE_NK]
    plain = [torch.empty(shape, dtype=DTYPE).normal_() for shape in shapes]
    packed = [ops.pack(weight_ND, None) for weight_ND in plain]
    works = []
    for rows in LINEAR_ROWS:
        used = slice(None) if rows <= 32 else slice(0, -1)
        inputs = {k: torch.randn(rows, k).to(DTYPE) for _, k in shapes}
        by_native = functools.partial(_multiply_native, ops, inputs, packed[used])
        by_torch = functools.partial(_multiply_torch, inputs, plain[used])
        weights = sum(n * k for n, k in shapes[used])
        name = f"linear bf16, {rows} row{'s' if rows > 1 else ''}"
        works.append(Work(name, by_native, by_torch, 2.0 * weights, 2.0 * weights * rows))
    return works


def _quantised(library: native.Library) -> list[Work]:
    shapes = [*LAYER_SHAPES_NK * LAYERS, HEAD_SHAPE_NK]
    works = []
    for quantisation in (Quantisation(8, 0), Quantisation(4, 32)):
        ops = NativeQuantised(library, quantisation)
        packed = [ops.pack(torch.empty(shape, dtype=DTYPE).normal_(), None) for shape in shapes]
        for rows in LINEAR_ROWS:
            used = slice(None) if rows <= 32 else slice(0, -1)
            inputs = {k: torch.randn(rows, k).to(DTYPE) for _, k in shapes}
            call = functools.partial(_multiply_native, ops, inputs, packed[used])
            operations = 2.0 * rows * sum(n * k for n, k in shapes[used])
            read_bytes = sum(weight.nbytes for weight in packed[used])
            name = f"linear {quantisation.layout}, {rows} row{'s' if rows > 1 else ''}"
            works.append(Work(name, call, None, read_bytes, operations, integers=True))
    return works


def _multiply_native(
    ops: NativeLinear | NativeQuantised, inputs: dict[int, Tensor], weights: list[LinearWeight]
) -> None:
    for weight in weights:
        ops.linear(inputs[weight.in_features], weight)


def _multiply_torch(inputs: dict[int, Tensor], weights: list[Tensor]) -> None:
    for weight_ND in weights:
        functional.linear(inputs[weight_ND.shape[1]], weight_ND)


# --- attention -------------------------------------------------------------------------------------------------------


def _attention(library: native.Library) -> list[Work]:
    attend = NativePagedAttention(library)
    works = []
    for count, context, new in ATTENTION_ROWS:
        q_THK = torch.randn(count * new, HEADS, HEAD_DIM).to(DTYPE)
        for dtype in (DTYPE, torch.uint8):
            rows, pool = attention_rows(count, context, new, dtype)
            own = functools.partial(_attend_layers, attend, q_THK, pool, rows)
            by_torch = functools.partial(_attend_layers, torch_sdpa.paged_attention, q_THK, pool, rows)
            pairs = count * (new * (context - new) + new * (new + 1) / 2)
            width_bytes = row_width(HEAD_DIM, dtype) * dtype.itemsize
            read_bytes = LAYERS * count * context * KV_HEADS * 2 * width_bytes
            name = f"attention {'int8' if dtype == torch.uint8 else 'bf16'}, {count} x {new} of {context}"
            operations = LAYERS * pairs * HEADS * HEAD_DIM * 4.0
            works.append(Work(name, own, by_torch if dtype == DTYPE else None, read_bytes, operations))
    return works


def _attend_layers(attend: PagedAttention, q_THK: Tensor, pool: KVPool, rows: Rows) -> None:
    for layer in range(LAYERS):
        attend(q_THK, *pool.layer(layer), rows, HEAD_DIM**-0.5)


def attention_rows(count: int, context: int, new: int, dtype: torch.dtype = DTYPE) -> tuple[Rows, KVPool]:
    """`count` sequences of `context` tokens, the last `new` of them new, over scattered blocks of a filled pool."""
    blocks = -(-context // BLOCK_TOKENS)
    shape = PoolShape(count * blocks, LAYERS, KV_HEADS, BLOCK_TOKENS, HEAD_DIM)
    one = torch.randn(1, *shape.as_tuple(DTYPE)[1:]).to(DTYPE)
    pool = KVPool.allocate(shape, dtype)
    pool.blocks_BL2GSK.copy_(quantise(one) if dtype == torch.uint8 else one)
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


# --- between the products, and after them ----------------------------------------------------------------------------


def _between(library: native.Library) -> list[Work]:
    works = []
    for rows in SMALL_ROWS:
        works += [_norm(library, rows), _rope(library, rows), _silu(library, rows), _embedding(library, rows)]
    return works


def _norm(library: native.Library, rows: int) -> Work:
    x_TD, residual_TD, weight_D = (
        torch.randn(*shape).to(DTYPE) for shape in ((rows, HIDDEN), (rows, HIDDEN), (HIDDEN,))
    )
    own, plain = NativeAddRmsNorm(library), norm_reference.add_rms_norm
    calls = [functools.partial(run, x_TD, residual_TD, weight_D, 1e-6) for run in (own, plain)]
    return Work(f"add_rms_norm, {rows} rows", calls[0], calls[1], 4.0 * x_TD.nbytes, 5.0 * x_TD.numel())


def _rope(library: native.Library, rows: int) -> Work:
    shape = HeadShape(HEADS, KV_HEADS, HEAD_DIM)
    step, pool = attention_rows(rows, BLOCK_TOKENS, 1)
    qkv_TC, cos_sin_PK = torch.randn(rows, shape.qkv_features).to(DTYPE), torch.randn(BLOCK_TOKENS, HEAD_DIM)
    norm_K = torch.ones(HEAD_DIM, dtype=DTYPE)
    arguments = (qkv_TC, step, cos_sin_PK, *pool.layer(0), shape, norm_K, norm_K, 1e-6)
    own, plain = NativeQkNormRopeWrite(library), rope_reference.qk_norm_rope_write
    calls = [functools.partial(run, *arguments) for run in (own, plain)]
    return Work(f"qk_norm_rope_write, {rows} rows", calls[0], calls[1], 2.0 * qkv_TC.nbytes, 7.0 * qkv_TC.numel())


def _silu(library: native.Library, rows: int) -> Work:
    gate_up_T2F = torch.randn(rows, 2 * FFN).to(DTYPE)
    calls = [functools.partial(run, gate_up_T2F) for run in (NativeSiluMul(library), silu_reference.silu_mul)]
    return Work(f"silu_mul, {rows} rows", calls[0], calls[1], 1.5 * gate_up_T2F.nbytes, 15.0 * rows * FFN)


def _embedding(library: native.Library, rows: int) -> Work:
    table_VD = torch.randn(VOCAB, HIDDEN).to(DTYPE)
    ids_T = torch.randint(0, VOCAB, (rows,))
    own = functools.partial(NativeEmbedding(library), ids_T, table_VD)
    by_torch = functools.partial(functional.embedding, ids_T, table_VD)
    return Work(f"embedding, {rows} rows", own, by_torch, 4.0 * rows * HIDDEN, 0)


def _sampling(library: native.Library) -> list[Work]:
    own, plain = NativeSample(library), sample_by_torch
    works = []
    for rows in (1, 32):
        logits_RV = torch.randn(rows, VOCAB) * 3
        for name, temperature, top_k, top_p in SAMPLING:
            columns = SampleRows(
                np.full(rows, temperature), np.full(rows, top_k), np.full(rows, top_p), np.zeros(rows),
                np.full(rows, 0.5),
            )  # fmt: skip
            calls = [functools.partial(run, logits_RV, columns) for run in (own, plain)]
            works.append(Work(f"sample {name}, {rows} rows", calls[0], calls[1], logits_RV.nbytes, 0))
    return works
