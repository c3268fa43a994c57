"""What a GPU reaches at most, and what its kernels reach: for `tradewind bench gpu`."""

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tradewind.bench.report import Report, Row
from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import Ops, choose_ops
from tradewind.kernels.quantised_rows import FP8, quantise_rows
from tradewind.kernels.rows import HeadShape, Rows

FORMS = ("bf16", "lossless", "fp8", "fp8-blocks", "int4", "int4-g64", "int4-g128")
_MANY_BYTES = 1 << 30  # kernels take turns over so many bytes of weights, so that none are found in a cache


def median_s(call: Callable[[], object], repeat: int = 20) -> float:
    """The median time of a call on the device, by events, after two calls that do not count."""
    times: list[float] = []
    for index in range(repeat + 2):
        begun, ended = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        if index > 1:
            times.append(begun.elapsed_time(ended) / 1e3)
    return statistics.median(times)


def replayed_s(calls: Sequence[Callable[[], object]], repeat: int = 10) -> float:
    """The time of one call on average, when all of them are replayed as one graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return median_s(graph.replay, repeat) / len(calls)


def ceilings(options: argparse.Namespace, device: torch.device) -> float:
    """Prints them; returns the bandwidth of a copy in bytes per second, read and written."""
    source = torch.empty(1 << 31, dtype=torch.uint8, device=device).random_()
    into = torch.empty_like(source)
    copy = 2 * source.nbytes / median_s(lambda: into.copy_(source))
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    rows, columns = quantise_rows(a), quantise_rows(b)
    flops = 2 * 8192**3
    report = Report("gpu ceilings", vars(options))
    scales = (rows.scales_T1, columns.scales_T1.t())
    fp8 = functools.partial(
        torch._scaled_mm, rows.values_TD, columns.values_TD.t(), *scales, out_dtype=torch.bfloat16, use_fast_accum=True
    )
    report.rows = [
        {"what": "copy, GB/s", "figure": copy / 1e9},
        {"what": "bf16 product of 8192, TFLOP/s", "figure": flops / median_s(lambda: a @ b.T) / 1e12},
        {"what": "fp8 product of 8192, TFLOP/s", "figure": flops / median_s(fp8) / 1e12},
    ]
    report.print()
    report.write(options.out)
    return copy


def kernels(options: argparse.Namespace, device: torch.device) -> None:
    shape = json.loads((options.config / "config.json").read_text())
    report = Report("gpu kernels", vars(options))
    for form in options.forms:
        report.rows.extend(_linears(shape, form, device))
        report.rows.extend(_attentions(shape, form, device))
    report.print()
    report.write(options.out)


def layer_shapes(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, heads, kv_heads = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    head_dim, ffn = shape.get("head_dim", hidden // heads), shape["intermediate_size"]
    return {
        "qkv": ((heads + 2 * kv_heads) * head_dim, hidden),
        "out": (hidden, heads * head_dim),
        "gate_up": (2 * ffn, hidden),
        "down": (hidden, ffn),
    }


def _linears(shape: dict[str, Any], form: str, device: torch.device) -> Iterator[Row]:
    ops = choose_ops(device, torch.bfloat16, quantisation=Quantisation.named("none" if form == "bf16" else form))
    for name, (outputs, inputs) in layer_shapes(shape).items():
        count = max(2, _MANY_BYTES // (outputs * inputs * 2))
        weights = [ops.pack(torch.randn(outputs, inputs, device=device).bfloat16(), None) for _ in range(count)]
        for tokens in (1, 8, 16, 32, 64, 128, 256, 1024, 8192):
            x = torch.randn(tokens, inputs, device=device).bfloat16()
            given: Any = quantise_rows(x) if form == "fp8" and tokens > 1 else x
            each_s = replayed_s([functools.partial(ops.linear, given, weight) for weight in weights])
            yield {
                "kernel": f"{name} {outputs}x{inputs} {form}",
                "rows": tokens,
                "us": each_s * 1e6,
                "GB/s": weights[0].nbytes / each_s / 1e9,
                "TFLOP/s": 2 * tokens * outputs * inputs / each_s / 1e12,
            }


BLOCK = 16  # tokens
_ATTENTION = ((1, 1024, 1), (1, 32_000, 1), (64, 1024, 1), (256, 1500, 1), (8, 1024, 1024))


def _attentions(shape: dict[str, Any], form: str, device: torch.device) -> Iterator[Row]:
    """(rows, context, new tokens of each)."""
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    head_dim = shape.get("head_dim", shape["hidden_size"] // heads)
    ops, head_shape = choose_ops(device, torch.bfloat16), HeadShape(heads, kv_heads, head_dim)
    dtype = torch.bfloat16 if form == "bf16" else FP8
    for count, context, new in _ATTENTION:
        blocks = -(-context // BLOCK)
        turns = 8 if count * context < 100_000 else 2
        pool = torch.randn(turns * count * blocks, 2, kv_heads, BLOCK, head_dim, device=device).to(dtype)
        order = torch.randperm(len(pool), device=device).int().view(turns, count, blocks)
        calls = [_attend(ops, head_shape, pool, equal_rows(table_RM, context, new)) for table_RM in order]
        each_s = replayed_s(calls)
        seen = count * (context * new - new * (new - 1) // 2)
        yield {
            "kernel": f"attention {count} x {context}, {new} new, {form}",
            "rows": count * new,
            "us": each_s * 1e6,
            "GB/s": 2 * count * context * kv_heads * head_dim * pool.itemsize / each_s / 1e9,
            "TFLOP/s": 4 * seen * heads * head_dim / each_s / 1e12,
        }


def _attend(ops: Ops, shape: HeadShape, pool: Tensor, rows: Rows) -> Callable[[], Tensor]:
    """Attention as a layer has it; where rotating the tokens is a part of it, with that."""
    pages, scale, tokens = (pool[:, 0], pool[:, 1]), shape.head_dim**-0.5, len(rows.write_T)
    fused = ops.fused_attention
    if fused is not None and fused.takes(rows, shape):
        qkv_TC = torch.randn(tokens, shape.qkv_features, device=pool.device).bfloat16()
        cos_sin_PK = torch.randn(rows.max_context, shape.head_dim, device=pool.device)
        heads = LayerHeads(shape, cos_sin_PK, None, None, 0.0, scale)
        return functools.partial(fused, qkv_TC, rows, *pages, heads)
    q_THK = torch.randn(tokens, shape.heads, shape.head_dim, device=pool.device).bfloat16()
    return functools.partial(ops.paged_attention, q_THK, *pages, rows, scale)


def equal_rows(table_RM: Tensor, context: int, new: int) -> Rows:
    """Rows of one context, whose last tokens are new."""
    count, device = len(table_RM), table_RM.device
    position_N = torch.arange(context - new, context, device=device)
    write_RN = table_RM[:, position_N // BLOCK].long() * BLOCK + position_N % BLOCK
    starts_R1 = torch.arange(count + 1, dtype=torch.int32, device=device) * new
    lengths_R = torch.full((count,), context, dtype=torch.int32, device=device)
    return Rows(position_N.repeat(count), write_RN.flatten(), starts_R1, lengths_R, table_RM, new, context)


def tell_of_compiling(done: int, kernels: int) -> None:
    """Say now and then how many kernels are ready."""
    if done % 20 == 0:
        print(f"{done} of {kernels} kernels ready", flush=True)
