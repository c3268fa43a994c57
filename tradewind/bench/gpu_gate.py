"""Whether the GPU computes what it should: every kernel against plain arithmetic in float64, at a model's own sizes.

No figure of speed is worth anything before this has passed. Fresh random inputs, poisoned outputs and pages.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tradewind.kernels import host_copy
from tradewind.kernels import sample as sampling
from tradewind.kernels.chained_linear import PreparedRows
from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.linear import LinearWeight, fp8, fp8_blocks, int4, lossless, reference
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear_add_norm import Bounded
from tradewind.kernels.ops import Ops, choose_ops
from tradewind.kernels.qk_norm_rope_write import reference as rope_reference
from tradewind.kernels.quantised_rows import FP8, MeasuredRows, QuantisedRows, quantise_rows
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.kernels.sample import DrawColumns, SampleRows
from tradewind.kernels.sample import reference as sample_reference

BF16 = torch.bfloat16
HEADS = HeadShape(32, 8, 128)
HIDDEN, FFN, BLOCK_TOKENS = 4096, 14336, 16
UNEVEN = 3584  # a width whose words do not fill the last step of a program
# |out - truth| / |truth|: bfloat16 keeps 8 bits; 8-bit floats keep 4.
_LIMIT, _LIMIT_FP8 = 6e-3, 4e-2
_LARGEST = 256.0  # times most values, as what is known of a model's before they are there (linear/fp8.py)


@dataclass(frozen=True)
class Check:
    """One comparison: its relative error, and what it may be."""

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.error <= self.limit


def checks(device: torch.device) -> Iterator[Check]:
    """All of them."""
    for _, part in parts(device):
        yield from part


def parts(device: torch.device) -> Iterator[tuple[str, Iterator[Check]]]:
    """All of them, part by part: a name for people, and its checks."""
    plain = choose_ops(device, BF16)
    for exact in (False, True):
        ops = plain if not exact else choose_ops(device, BF16, exact=True)
        suffix = ", exact" if exact else ""
        yield f"linear bf16{suffix}", _linear(ops, device, "bf16" + suffix)
        yield f"attention bf16{suffix}", _attention(ops, device, BF16, suffix)
    yield "fused_linear bf16", _fused(plain, device, "bf16")
    yield "linear and fused_linear bf16, one-row copy", _one_row_copy(device)
    yield "add_rms_norm and silu_mul bf16", _rowwise(plain, device)
    for name in ("lossless", "int4", "int4-g128"):
        yield from _quantised(name, device)
    yield "gated_linear bf16", _gated(plain, device)
    yield "rope bf16", _rope(plain, device, BF16)
    yield "fused_attention bf16", _fused_attention(plain, device, BF16)
    yield "draw", _draw(device)
    yield "host_copy", _host_copy(device)
    yield "embedding", _embedding(plain, device)
    if torch.cuda.get_device_capability(device) >= (8, 9):
        fp8 = choose_ops(device, BF16, quantisation=Quantisation.named("fp8"))
        yield "add_rms_norm and silu_mul fp8", _rowwise(fp8, device)
        yield "linear fp8", _linear(fp8, device, "fp8")
        yield "gated_linear fp8", _gated(fp8, device)
        yield "fused_linear fp8", _fused(fp8, device, "fp8")
        yield "linear_add_norm fp8", _linear_add_norm(fp8, device)
        yield "chained_linear fp8", _chained(fp8, device, "fp8")
        yield from _quantised("fp8-blocks", device)
        yield "attention fp8", _attention(plain, device, FP8, "")
        yield "rope fp8", _rope(plain, device, FP8)
        yield "fused_attention fp8", _fused_attention(plain, device, FP8)
        yield "fused_attention fp8, releasing", _fused_attention(fp8, device, FP8)


def _error(out: Tensor | QuantisedRows | PreparedRows, truth: Tensor) -> float:
    wide = out if isinstance(out, Tensor) else out.dense()
    return float((wide.double() - truth).norm() / truth.norm())


def _randn(device: torch.device, *shape: int, scale: float = 1.0, dtype: torch.dtype = BF16) -> Tensor:
    return (torch.randn(shape, device=device) * scale).to(dtype)


def _linear(ops: Ops, device: torch.device, kind: str) -> Iterator[Check]:
    for outputs, inputs in ((6144, HIDDEN), (HIDDEN, FFN), (1000, 208)):
        weight_ND = _randn(device, outputs, inputs, scale=inputs**-0.5)
        packed = ops.pack(weight_ND.clone(), None)
        for tokens in (1, 5, 16, 17, 33, 64, 65, 300):
            x_TD = _randn(device, tokens, inputs)
            truth = x_TD.double() @ weight_ND.double().T
            limit = _LIMIT_FP8 if "fp8" in kind else _LIMIT
            yield Check(f"linear {kind} {tokens}x{inputs}->{outputs}", _error(ops.linear(x_TD, packed), truth), limit)
        for tokens in (9, 300):
            logits = ops.logits(x_TD[:tokens].contiguous(), packed)
            assert logits.dtype == torch.float32
            yield Check(f"logits {kind} {tokens}x{inputs}->{outputs}", _error(logits, truth[:tokens]), limit)


def _quantised(name: str, device: torch.device) -> Iterator[tuple[str, Iterator[Check]]]:
    """The parts of weights that stand for other numbers, or are stored in other words."""
    for exact in (False, True):
        yield f"linear {name}{', exact' if exact else ''}", _quantised_linear(name, device, exact)
    ops = choose_ops(device, BF16, quantisation=Quantisation.named(name))
    yield f"fused_linear {name}", _fused(ops, device, name)
    if ops.chained_linear is not None:
        yield f"chained_linear {name}", _chained(ops, device, name)


def _quantised_linear(name: str, device: torch.device, exact: bool) -> Iterator[Check]:
    """Against what the weights stand for. Many rows are quantised too, if the weights are floats."""
    ops = choose_ops(device, BF16, quantisation=Quantisation.named(name), exact=exact)
    suffix = ", exact" if exact else ""
    for outputs, inputs in ((6144, HIDDEN), (HIDDEN, FFN), (1000, 208)):
        packed = ops.pack(_randn(device, outputs, inputs, scale=inputs**-0.5), None)
        numbers_DN = _numbers(packed).T
        for tokens in (1, 5, 16, 17, 64, 65, 256, 300):
            x_TD = _randn(device, tokens, inputs)
            truth = x_TD.double() @ numbers_DN
            y_TN, logits_TN = ops.linear(x_TD, packed), ops.logits(x_TD, packed)
            limit = _LIMIT_FP8 if "fp8" in name and tokens > 16 and not exact else _LIMIT
            yield Check(f"linear {name} {tokens}x{inputs}->{outputs}{suffix}", _error(y_TN, truth), limit)
            yield Check(f"logits {name} {tokens}x{inputs}->{outputs}{suffix}", _error(logits_TN, truth), limit)


def _numbers(weight: LinearWeight) -> Tensor:
    """What a packed weight stands for, float64 [N, D]."""
    if weight.layout == reference.LAYOUT:
        return weight.data.double()
    if weight.layout == fp8.LAYOUT:
        return fp8.dense(weight).double()
    if weight.layout == fp8_blocks.LAYOUT:
        return fp8_blocks.dense(weight, torch.float64)
    if weight.layout == lossless.LAYOUT:
        return lossless.dense(weight).double()
    return int4.dense(weight, torch.float64)


def _fused(ops: Ops, device: torch.device, kind: str) -> Iterator[Check]:
    assert ops.fused_linear is not None
    for outputs, inputs in ((HIDDEN, FFN), (2 * FFN, HIDDEN), (6144, HIDDEN), (200, 208)):
        bias_N = _randn(device, outputs) if outputs == 6144 else None
        packed = ops.pack(_randn(device, outputs, inputs, scale=inputs**-0.5), bias_N)
        numbers_DN, norm = _numbers(packed).T, Norm(_randn(device, inputs), 1e-5)
        counts = [tokens for tokens in (1, 5, 16) if tokens <= ops.fused_rows]
        for tokens, gated, has_norm in itertools.product(counts, (False, True), (False, True)):
            x_TD = _randn(device, tokens, inputs, scale=3.0)
            truth = x_TD.double()
            if has_norm:
                truth = truth / (truth.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight_D.double()
            truth = truth @ numbers_DN + (0 if bias_N is None else bias_N.double())
            if gated:
                gate, up = truth.chunk(2, -1)
                truth = gate / (1 + (-gate).exp()) * up
            residual_TN = _randn(device, *truth.shape)
            y_TN = ops.fused_linear(x_TD, packed, norm if has_norm else None, gated, residual_TN)
            name = f"fused_linear {kind} {tokens}x{inputs}->{outputs} gated={gated} norm={has_norm}"
            yield Check(name, _error(y_TN, truth + residual_TN.double()), _LIMIT)


def _one_row_copy(device: torch.device) -> Iterator[Check]:
    """One row by the copy alone, the weight beside it being NaN; two rows the other way round."""
    ops = choose_ops(device, BF16, one_row_copy=True)
    for outputs, inputs in ((6144, HIDDEN), (HIDDEN, FFN), (1000, 208)):
        weight_ND = _randn(device, outputs, inputs, scale=inputs**-0.5)
        packed = ops.pack(weight_ND, None)
        copy = packed.one_row_copy
        assert copy is not None
        scales_N, exceptions_NE = copy.extras
        without_copy = replace(copy, extras=(torch.full_like(scales_N, torch.nan), exceptions_NE))
        without_weight = replace(packed, data=torch.full_like(weight_ND, torch.nan))
        for tokens, weight in ((1, without_weight), (2, replace(packed, one_row_copy=without_copy))):
            x_TD = _randn(device, tokens, inputs)
            truth = x_TD.double() @ weight_ND.double().T
            runs = {"linear": ops.linear, "logits": ops.logits}
            if ops.fused_linear is not None and tokens <= ops.fused_rows:
                runs["fused_linear"] = ops.fused_linear
            for op, run in runs.items():
                name = f"{op} bf16, one-row copy {tokens}x{inputs}->{outputs}"
                yield Check(name, _error(run(x_TD, weight), truth), _LIMIT)


def _chained(ops: Ops, device: torch.device, kind: str) -> Iterator[Check]:
    """Each product against that of the very rows that it was given; what it prepares, as numbers of as many bits.

    A row that becomes float16 on the way has numbers beyond that.
    """
    run = ops.chained_linear
    assert run is not None
    limit = _LIMIT_FP8 if kind == "fp8-blocks" else _LIMIT
    counts, scale = ((1, 2), 3e5) if kind == "fp8" else ((1, 2, 5, 8, 16, 17, 40, 64, 65, 128), 3.0)
    norms = {width: Norm(_randn(device, width), 1e-5) for width in (HIDDEN, FFN, UNEVEN)}
    for outputs, inputs in ((6144, HIDDEN), (HIDDEN, HIDDEN), (2 * FFN, HIDDEN), (HIDDEN, FFN), (6144, UNEVEN)):
        bias_N = _randn(device, outputs) if outputs == 6144 else None
        packed = ops.pack(_randn(device, outputs, inputs, scale=inputs**-0.5), bias_N)
        assert run.takes(packed)
        numbers_DN = _numbers(packed).T
        for tokens in counts:
            x_TD, name = _randn(device, tokens, inputs, scale=scale), f"chained {kind} {tokens}x{inputs}->{outputs}"
            rows = run.prepare(x_TD, norms[inputs])
            yield Check(f"{name} prepare", _error(rows, _normed(x_TD.double(), norms[inputs])), limit)
            truth = rows.dense().double() @ numbers_DN + (0 if bias_N is None else bias_N.double())
            yield Check(name, _error(run.linear(rows, packed), truth), _LIMIT)
            if outputs == 2 * FFN:
                gate, up = truth.chunk(2, -1)
                act = run.gated(rows, packed, packed)
                yield Check(f"{name} gated", _error(act, gate / (1 + (-gate).exp()) * up), limit)
            elif outputs == HIDDEN:
                residual_TN = _randn(device, *truth.shape)
                total = truth + residual_TN.double()
                after = run.add(rows, packed, residual_TN, norms[HIDDEN], packed)
                yield Check(f"{name} sum", _error(residual_TN, total), _LIMIT)
                yield Check(f"{name} normed", _error(after, _normed(residual_TN.double(), norms[HIDDEN])), limit)


def _linear_add_norm(ops: Ops, device: torch.device) -> Iterator[Check]:
    """A step's norms, sums and gates, each against that of the very rows that it was given."""
    run, gated = ops.linear_add_norm, ops.gated_linear
    assert run is not None
    assert gated is not None
    norms = [Norm(_randn(device, HIDDEN), 1e-5) for _ in range(3)]
    bias_N = _randn(device, HIDDEN)
    shapes = (6144, HIDDEN, None), (HIDDEN, HIDDEN, bias_N), (2 * FFN, HIDDEN, None), (HIDDEN, FFN, None)
    weights = [ops.pack(_randn(device, outputs, inputs, scale=inputs**-0.5), bias) for outputs, inputs, bias in shapes]
    qkv, out, gate_up, down = weights
    bounds = [Bounded.of(norm, sums) for norm, sums in zip(norms, (None, out, down), strict=True)]
    for tokens in (3, 8, 16, 17, 40, 64):
        assert run.takes(tokens, weights)
        residual_TD, name = _randn(device, tokens, HIDDEN, scale=3.0), f"linear_add_norm {tokens}"
        normed = run.begin(residual_TD, bounds[0], 3)
        yield Check(f"{name} begin", _error(normed, _normed(residual_TD.double(), norms[0])), _LIMIT_FP8)
        yield Check(f"{name} qkv", _error(ops.linear(normed, qkv), normed.dense().double() @ _numbers(qkv).T), _LIMIT)
        rows = _measured(quantise_rows(_randn(device, tokens, HIDDEN)))
        for what, weight, bounded in (("out", out, bounds[1]), ("down", down, bounds[2])):
            truth = residual_TD.double() + rows.dense().double() @ _numbers(weight).T
            truth = truth if weight.bias_N is None else truth + weight.bias_N.double()
            normed = run(rows, weight, residual_TD, normed, bounded)
            yield Check(f"{name} {what}", _error(residual_TD, truth), _LIMIT)
            again = _normed(residual_TD.double(), bounded.norm)
            yield Check(f"{name} {what} normed", _error(normed, again), _LIMIT_FP8)
            gate, up = (normed.dense().double() @ _numbers(gate_up).T).chunk(2, -1)
            act = gated(normed, gate_up)
            yield Check(f"{name} {what} gated", _error(act, gate / (1 + (-gate).exp()) * up), _LIMIT_FP8)
            assert isinstance(act, MeasuredRows)
            rows = act


def _measured(rows: QuantisedRows) -> MeasuredRows:
    squares_TG = rows.dense().square().view(len(rows.values_TD), HEADS.kv_heads, -1).sum(2)
    return MeasuredRows(rows.values_TD, rows.scales_T1, rows.dtype, squares_TG)


def _normed(x_TD: Tensor, norm: Norm) -> Tensor:
    return x_TD / (x_TD.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight_D.double()


def _rowwise(ops: Ops, device: torch.device) -> Iterator[Check]:
    for tokens in (1, 37, 300):
        x_TD, residual_TD = _randn(device, tokens, HIDDEN), _randn(device, tokens, HIDDEN)
        weight_D = _randn(device, HIDDEN)
        wide = (x_TD.float() + residual_TD.float()).to(BF16).double()
        truth = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
        normed, total = ops.norm_for_linear(x_TD.clone(), residual_TD.clone(), weight_D, 1e-5)
        kind, limit = ("fp8", _LIMIT_FP8) if isinstance(normed, QuantisedRows) else ("bf16", _LIMIT)
        yield Check(f"add_rms_norm {kind} {tokens}", max(_error(normed, truth), _error(total, wide)), limit)
        gate_up = _randn(device, tokens, 2 * FFN, scale=2.0)
        gate, up = gate_up.double().chunk(2, -1)
        yield Check(f"silu_mul {kind} {tokens}", _error(ops.silu_mul(gate_up), gate / (1 + (-gate).exp()) * up), limit)


def _gated(ops: Ops, device: torch.device) -> Iterator[Check]:
    """The truth is that of the rows as they come: in 8 bits, with 8-bit weights."""
    run = ops.gated_linear
    assert run is not None
    for outputs, inputs in ((2 * FFN, HIDDEN), (1536, 512)):
        packed = ops.pack(_randn(device, outputs, inputs, scale=3 * inputs**-0.5), None)
        for tokens in (2, 5, 16, 17, 32, 33, 64):
            x_TD = _randn(device, tokens, inputs)
            x, wide_TD = (x_TD, x_TD.double()) if packed.layout == "dense" else _in_8_bits(x_TD)
            assert run.takes(x, packed)
            gate, up = (wide_TD @ _numbers(packed).T).chunk(2, -1)
            limit = _LIMIT if packed.layout == "dense" else _LIMIT_FP8
            name = f"gated_linear {packed.layout} {tokens}x{inputs}->{outputs}"
            yield Check(name, _error(run(x, packed), gate / (1 + (-gate).exp()) * up), limit)


def _in_8_bits(x_TD: Tensor) -> tuple[QuantisedRows, Tensor]:
    rows = quantise_rows(x_TD)
    return rows, rows.dense().double()


@dataclass(frozen=True)
class _Paged:
    """Rows over a pool full of NaN, but for what the rows have written."""

    rows: Rows
    pool_BL2GSK: Tensor
    contexts: list[int]
    new: list[int]


def _paged(device: torch.device, contexts: list[int], new: list[int], dtype: torch.dtype) -> _Paged:
    blocks = [-(-context // BLOCK_TOKENS) for context in contexts]
    order = torch.randperm(sum(blocks), device=device)
    tables = torch.split(order.int(), blocks)
    positions = [torch.arange(context - count, context) for context, count in zip(contexts, new, strict=True)]
    write = [
        tables[row][place.to(device) // BLOCK_TOKENS].long() * BLOCK_TOKENS + place.to(device) % BLOCK_TOKENS
        for row, place in enumerate(positions)
    ]
    table_RM = torch.full((len(contexts), max(blocks) + 1), 2**30, dtype=torch.int32, device=device)
    for row, table in enumerate(tables):
        table_RM[row, : len(table)] = table
    starts = torch.tensor([0, *itertools.accumulate(new)], dtype=torch.int32, device=device)
    pool = torch.randn(sum(blocks), 2, 2, HEADS.kv_heads, BLOCK_TOKENS, HEADS.head_dim, device=device)
    for table, context in zip(tables, contexts, strict=True):
        if context % BLOCK_TOKENS:
            pool[int(table[-1]), :, :, :, context % BLOCK_TOKENS :] = torch.nan
    rows = Rows(
        positions_T=torch.cat(positions).int().to(device),
        write_T=torch.cat(write),
        query_starts_R1=starts,
        context_lens_R=torch.tensor(contexts, dtype=torch.int32, device=device),
        block_tables_RM=table_RM,
        max_query=max(new),
        max_context=max(contexts),
    )
    return _Paged(rows, pool.to(dtype), contexts, new)


_STEPS: dict[str, tuple[list[int], list[int]]] = {
    "one": ([1000], [1]),
    "long": ([20_000], [1]),
    "decodes": ([1, 17, 640, 3000] * 16, [1] * 64),
    "many decodes": ([1, 17, 640, 1500] * 50, [1] * 200),
    "more than are dealt out": ([1, 40, 200] * 200, [1] * 600),
    "prefill": ([700, 1300], [700, 300]),
    "mixed": ([900, 5, 2100, 64, 4000], [1, 5, 600, 1, 130]),
}


def _attention(ops: Ops, device: torch.device, dtype: torch.dtype, suffix: str) -> Iterator[Check]:
    for name, (contexts, new) in _STEPS.items():
        for window, softcap in ((None, None), (500, None), (600, None), (None, 5.0)):
            paged = _paged(device, contexts, new, dtype)
            q_THK = _randn(device, sum(new), HEADS.heads, HEADS.head_dim)
            pages = paged.pool_BL2GSK[:, 1, 0], paged.pool_BL2GSK[:, 1, 1]
            out_THK = ops.paged_attention(q_THK, *pages, paged.rows, 0.2, window, softcap)
            truth = _attention_truth(q_THK, pages, paged, 0.2, window, softcap)
            what = f"attention {'fp8' if dtype == FP8 else 'bf16'} {name}{suffix} window={window} softcap={softcap}"
            yield Check(what, _error(out_THK, truth), _LIMIT)


def _attention_truth(
    q_THK: Tensor, pages: tuple[Tensor, Tensor], paged: _Paged, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    outs, first = [], 0
    for row, (context, count) in enumerate(zip(paged.contexts, paged.new, strict=True)):
        blocks = paged.rows.block_tables_RM[row, : -(-context // BLOCK_TOKENS)].long()
        keys, values = (
            part[blocks].double().transpose(0, 1).flatten(1, 2)[:, :context].repeat_interleave(HEADS.queries_per_kv, 0)
            for part in pages
        )
        q_HNK = q_THK[first : first + count].double().transpose(0, 1)
        scores = q_HNK @ keys.transpose(1, 2) * scale
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        position = torch.arange(context - count, context, device=q_THK.device).unsqueeze(1)
        key = torch.arange(context, device=q_THK.device).unsqueeze(0)
        hidden = (key > position) | (key <= position - (window or context + 1))
        outs.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1))
        first += count
    return torch.cat(outs)


def _rope(ops: Ops, device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    for with_norm in (False, True):
        paged = _paged(device, [900, 5, 640], [1, 5, 64], BF16)
        qkv_TC = _randn(device, 70, HEADS.qkv_features)
        cos_sin_PK = torch.randn(1000, HEADS.head_dim, device=device)
        q_norm_K, k_norm_K = (_randn(device, HEADS.head_dim) if with_norm else None for _ in range(2))
        pool, truth_pool = (torch.full(paged.pool_BL2GSK.shape, 3.0, device=device) for _ in range(2))
        pool = pool.to(dtype)
        q_THK = ops.qk_norm_rope_write(
            qkv_TC.clone(), paged.rows, cos_sin_PK, pool[:, 1, 0], pool[:, 1, 1], HEADS, q_norm_K, k_norm_K, 1e-6
        )
        wide_q, wide_k = (None if norm is None else norm.float() for norm in (q_norm_K, k_norm_K))
        truth = rope_reference.qk_norm_rope_write(
            qkv_TC.float(),
            paged.rows,
            cos_sin_PK,
            truth_pool[:, 1, 0],
            truth_pool[:, 1, 1],
            HEADS,
            wide_q,
            wide_k,
            1e-6,
        )
        limit = _LIMIT_FP8 if dtype == FP8 else _LIMIT
        name = f"rope {'with norm ' if with_norm else ''}{'fp8' if dtype == FP8 else 'bf16'}"
        yield Check(f"{name} q", _error(q_THK, truth.double()), _LIMIT)
        yield Check(f"{name} pages", _error(pool, truth_pool.double()), limit)


def _fused_attention(ops: Ops, device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    """One row, with a context of the token alone, of a piece, of several, of as many as there may be, and a long one;
    and some rows: a few that are cut, of all lengths, fewer and more than share programs, and alike.
    """
    run, kind = ops.fused_attention, "fp8" if dtype == FP8 else "bf16"
    assert run is not None
    steps = {str(context): [context] for context in (1, 100, 1000, 1900, 20_000)}
    steps |= {"2 long ones": [5000, 4001], "16 of all lengths": list(range(1, 1300, 80)), "64 x 300": [300] * 64}
    steps |= {"40 of all lengths": list(range(1, 2500, 61))[:40]}
    for (step, contexts), has_norm in itertools.product(steps.items(), (False, True)):
        for window, softcap in ((None, None), (500, None), (None, 5.0)):
            paged = _paged(device, contexts, [1] * len(contexts), dtype)
            pages = paged.pool_BL2GSK[:, 1, 0], paged.pool_BL2GSK[:, 1, 1]
            wide_pool = paged.pool_BL2GSK.float()
            q_norm_K, k_norm_K = (_randn(device, HEADS.head_dim) if has_norm else None for _ in range(2))
            cos_sin_PK = torch.randn(max(contexts), HEADS.head_dim, device=device)
            qkv_TC = _randn(device, len(contexts), HEADS.qkv_features)
            assert run.takes(paged.rows, HEADS)
            heads = LayerHeads(HEADS, cos_sin_PK, q_norm_K, k_norm_K, 1e-6, 0.2, window, softcap, _LARGEST)
            out_TC = run(qkv_TC, paged.rows, *pages, heads)
            wide_THK = rope_reference.qk_norm_rope_write(
                qkv_TC.float(), paged.rows, cos_sin_PK, wide_pool[:, 1, 0], wide_pool[:, 1, 1], HEADS,
                q_norm_K, k_norm_K, 1e-6,
            )  # fmt: skip
            name = f"fused_attention {kind} {step} norm={has_norm} window={window} softcap={softcap}"
            truth = _attention_truth(wide_THK.to(qkv_TC.dtype), pages, paged, 0.2, window, softcap)
            yield Check(name, _error(out_TC, truth.flatten(1)), _LIMIT)
            if run.quantises(paged.rows, HEADS):
                quantised = run.quantised(qkv_TC, paged.rows, *pages, heads)
                yield Check(f"{name} quantised", _error(quantised, truth.flatten(1)), _LIMIT_FP8)
            written, wide_written = (pool.double().nan_to_num() for pool in (paged.pool_BL2GSK, wide_pool))
            yield Check(f"{name} pages", _error(written, wide_written), _LIMIT_FP8 if dtype == FP8 else _LIMIT)


def _draw(device: torch.device) -> Iterator[Check]:
    """Tokens must be the reference's; the error is the share that differ."""
    settings = [
        (0, 0, 1, 0),
        (1, 0, 1, 0),
        (0.6, 0, 1, 0),
        (1, 50, 1, 0),
        (0.8, 0, 0.9, 0),
        (1, 0, 1, 0.1),
        (1, 20, 0.8, 0.05),
    ]
    count, vocab = 16 * len(settings), 128_256
    logits_NV = torch.randn(count, vocab, device=device) * 3
    logits_NV[3, 77] = torch.nan
    columns = [np.array(column, float) for column in zip(*(settings * 16), strict=True)]
    rows = SampleRows(
        columns[0], columns[1].astype(np.int64), columns[2], columns[3], np.random.default_rng(0).random(count)
    )

    def send(array: "np.ndarray[tuple[int], np.dtype[np.generic]]", dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(array).to(device, dtype)

    each = torch.arange(count, dtype=torch.int32, device=device)
    on_device = DrawColumns(
        torch.tensor([count], dtype=torch.int32, device=device), torch.ones(1, dtype=torch.int32, device=device), each,
        each % 9,
        send(rows.temperature_R, torch.float32), send(rows.top_k_R, torch.int32), send(rows.top_p_R, torch.float32),
        send(rows.min_p_R, torch.float32), send(rows.uniforms_R, torch.float64),
    )  # fmt: skip
    tokens_SP = torch.full((count, 9), -7, dtype=torch.int32, device=device)
    drawn_N = torch.full((count,), -9, dtype=torch.int64, device=device)
    told_UN = torch.full((2, count), -9, pin_memory=True)
    sampling.choose_draw(device).run(logits_NV, on_device, tokens_SP, drawn_N, told_UN)
    torch.cuda.synchronize(device)
    expected = sample_reference.sample(logits_NV.cpu(), rows)
    stored = tokens_SP[each.long(), (each % 9).long()].cpu()
    wrong = (drawn_N.cpu() != expected) | (told_UN[1] != expected) | (stored != expected.clamp(min=0))
    # A number within float32's rounding of an edge may fall on either side.
    yield Check("draw", float(wrong.double().mean()), 1.5 / count)


def _embedding(ops: Ops, device: torch.device) -> Iterator[Check]:
    """The error is how many numbers differ."""
    weight_VD = _randn(device, 1000, HIDDEN)
    for tokens in (1, 64, 8192):
        ids_T = torch.randint(1000, (tokens,), dtype=torch.int32, device=device)
        wrong = int((ops.embedding(ids_T, weight_VD) != weight_VD[ids_T]).sum())
        yield Check(f"embedding of {tokens}", wrong, 0)


def _host_copy(device: torch.device) -> Iterator[Check]:
    """The error is the share of words that differ."""
    copy = host_copy.choose(device).run
    for count in (1, 8192, 10_000):
        ring_UW = torch.randint(1 << 62, (3, count)).pin_memory()
        there_W = torch.zeros(count, dtype=torch.int64, device=device)
        turn_1 = torch.ones(1, dtype=torch.int32, device=device)
        for turn in (1, 2, 0):
            copy(ring_UW, turn_1, there_W)
            wrong = (there_W.cpu() != ring_UW[turn]).double().mean()
            yield Check(f"host_copy of {count} words, turn {turn}", float(wrong), 0.0)
