"""Every implementation of every op against the reference in float64: one tolerance, in CI as at home.

An implementation is reached through the op's `choose`, so a new one is tested as soon as it can be chosen. The truth is
computed by the reference from the same (rounded) inputs in float64.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.cpu.paged import make_rows
from tradewind.kernels import (
    add_rms_norm,
    embedding,
    linear,
    paged_attention,
    qk_norm_rope_write,
    silu_mul,
)
from tradewind.kernels.choice import KINDS
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.quantised_rows import quantise_rows
from tradewind.kernels.rows import HeadShape, Rows

CPU = torch.device("cpu")
NAN = float("nan")

# Relative to the largest number of the result: a few roundings of the dtype.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)


def implementations(op: ModuleType) -> list[tuple[torch.dtype, str]]:
    """(dtype, kind) of every implementation of an op that this machine can choose."""
    found = []
    for dtype, kind in itertools.product(DTYPES, KINDS):
        if op.choose(CPU, dtype, kind).kind == kind:
            found.append((dtype, kind))
    return found


def each_implementation(op: ModuleType) -> pytest.MarkDecorator:
    cases = implementations(op)
    return pytest.mark.parametrize(("dtype", "kind"), cases, ids=[f"{kind}-{str(dtype)[6:]}" for dtype, kind in cases])


def randn(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def strided(x: Tensor) -> Tensor:
    """The same numbers, as rows of a wider tensor full of NaN."""
    wide = torch.full((*x.shape[:-1], x.shape[-1] + 5), NAN, dtype=x.dtype)
    wide[..., : x.shape[-1]] = x
    return wide[..., : x.shape[-1]]


def assert_near(actual: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    assert actual.dtype == dtype
    assert actual.shape == truth.shape
    scale = float(truth.abs().max()) if truth.numel() else 1.0
    torch.testing.assert_close(actual.double(), truth.double(), atol=TOLERANCE[dtype] * max(scale, 1e-3), rtol=0)


# --- linear ----------------------------------------------------------------------------------------------------------


@each_implementation(linear)
@pytest.mark.parametrize("tokens", [0, 1, 2, 3, 5, 17, 33])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 3), (31, 129), (200, 64), (96, 65)])
def test_linear(dtype: torch.dtype, kind: str, tokens: int, outputs: int, inputs: int) -> None:
    kernel = linear.choose(CPU, dtype, kind).run
    x_TD, residual_TN = randn(tokens, inputs, dtype=dtype), randn(tokens, outputs, dtype=dtype, seed=1)
    weight_ND, bias_N = randn(outputs, inputs, dtype=dtype, seed=2), randn(outputs, dtype=dtype, seed=3)
    for bias, residual in itertools.product([None, bias_N], [None, residual_TN]):
        truth = x_TD.double() @ weight_ND.double().T
        truth = truth + (0 if bias is None else bias.double()) + (0 if residual is None else residual.double())
        packed = kernel.pack(weight_ND.clone(), None if bias is None else bias.clone())
        assert (packed.out_features, packed.in_features) == (outputs, inputs)
        assert packed.nbytes >= weight_ND.nbytes
        for x in (x_TD, strided(x_TD)):
            given_up = None if residual is None else residual.clone()
            assert_near(kernel.linear(x, packed, given_up), truth, dtype)


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_with_8_bit_floats(dtype: torch.dtype, tokens: int) -> None:
    """Within what 4 bits of precision lose; and rows that come quantised give the same."""
    kernel = linear.choose(CPU, dtype, quantisation=Quantisation.named("fp8")).run
    x_TD, weight_ND = randn(tokens, 96, dtype=dtype), randn(40, 96, dtype=dtype, seed=2)
    bias_N, residual_TN = randn(40, dtype=dtype, seed=3), randn(tokens, 40, dtype=dtype, seed=1)
    packed = kernel.pack(weight_ND.clone(), bias_N.clone())
    truth = x_TD.double() @ weight_ND.double().T + bias_N.double() + residual_TN.double()
    y_TN = kernel.linear(x_TD, packed, residual_TN.clone())
    assert y_TN.dtype == dtype
    assert float((y_TN.double() - truth).norm()) <= 0.05 * float(truth.norm())
    assert torch.equal(kernel.linear(quantise_rows(x_TD), packed, residual_TN.clone()), y_TN)


# --- norm, gate, embedding -------------------------------------------------------------------------------------------


@each_implementation(add_rms_norm)
@pytest.mark.parametrize(("tokens", "hidden"), [(0, 8), (1, 1), (3, 7), (2, 64), (5, 1000), (33, 129)])
def test_add_rms_norm(dtype: torch.dtype, kind: str, tokens: int, hidden: int) -> None:
    run = add_rms_norm.choose(CPU, dtype, kind).run
    x_TD, weight_D = randn(tokens, hidden, dtype=dtype), randn(hidden, dtype=dtype, seed=1)
    for residual in (None, randn(tokens, hidden, dtype=dtype, seed=2)):
        total = x_TD if residual is None else x_TD + residual
        wide = total.double()
        truth = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
        for x in (x_TD.clone(), strided(x_TD)):
            normed, new_residual = run(x, None if residual is None else residual.clone(), weight_D, 1e-5)
            assert_near(normed, truth, dtype)
            assert torch.equal(new_residual, total)


@each_implementation(add_rms_norm)
def test_add_rms_norm_of_small_numbers_counts_eps(dtype: torch.dtype, kind: str) -> None:
    x_TD, weight_D = randn(3, 40, dtype=dtype, scale=1e-3), randn(40, dtype=dtype, seed=1)
    x_TD[1] = 0
    wide = x_TD.double()
    truth = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
    normed, _ = add_rms_norm.choose(CPU, dtype, kind).run(x_TD.clone(), None, weight_D, 1e-5)
    assert_near(normed, truth, dtype)


@each_implementation(silu_mul)
@pytest.mark.parametrize(("tokens", "ffn"), [(0, 8), (1, 1), (3, 7), (2, 64), (33, 129)])
def test_silu_mul(dtype: torch.dtype, kind: str, tokens: int, ffn: int) -> None:
    gate_up = randn(tokens, 2 * ffn, dtype=dtype, scale=4.0)
    gate, up = gate_up.double().chunk(2, dim=-1)
    for x in (gate_up.clone(), strided(gate_up)):
        assert_near(silu_mul.choose(CPU, dtype, kind).run(x), gate / (1 + (-gate).exp()) * up, dtype)


@each_implementation(silu_mul)
def test_silu_mul_at_the_ends_of_the_range(dtype: torch.dtype, kind: str) -> None:
    gate_up = torch.tensor([[-1e4, -200.0, 200.0, 1e4, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]], dtype=dtype)
    expected = torch.tensor([[0.0, 0.0, gate_up[0, 2], gate_up[0, 3], 0.0]], dtype=dtype)
    torch.testing.assert_close(silu_mul.choose(CPU, dtype, kind).run(gate_up), expected, atol=1e-30, rtol=1e-3)


@each_implementation(embedding)
@pytest.mark.parametrize("ids_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("ids", [[], [0], [6, 6, 0, 3, 1]])
def test_embedding(dtype: torch.dtype, kind: str, ids_dtype: torch.dtype, ids: list[int]) -> None:
    weight_VD = randn(7, 13, dtype=dtype)
    rows = embedding.choose(CPU, dtype, kind).run(torch.tensor(ids, dtype=ids_dtype), weight_VD)
    assert torch.equal(rows, weight_VD[torch.tensor(ids, dtype=torch.int64)])
    assert rows.data_ptr() != weight_VD.data_ptr()


# --- qk_norm_rope_write ----------------------------------------------------------------------------------------------

HEADS = [HeadShape(3, 3, 8), HeadShape(4, 2, 80), HeadShape(7, 1, 128), HeadShape(14, 2, 16), HeadShape(1, 1, 2)]


@each_implementation(qk_norm_rope_write)
@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("new", [[], [1], [5, 1, 3]], ids=str)
def test_qk_norm_rope_write(dtype: torch.dtype, kind: str, shape: HeadShape, with_norm: bool, new: list[int]) -> None:
    block_tokens, computed = 4, [9, 0, 2][: len(new)]
    rows = make_rows(computed, new, [[5, 0, 7, 2], [3], [6, 1]][: len(new)], block_tokens)
    tokens, head_dim = sum(new), shape.head_dim
    qkv_TC = randn(tokens, shape.qkv_features, dtype=dtype)
    cos_sin_PK = torch.randn(20, head_dim, generator=torch.Generator().manual_seed(1))
    norms = [randn(head_dim, dtype=dtype, seed=seed) if with_norm else None for seed in (2, 3)]
    # Pages as the pool gives them: strided by block, among other layers.
    pool = torch.full((8, 3, 2, shape.kv_heads, block_tokens, head_dim), NAN, dtype=dtype)
    k_pages, v_pages = pool[:, 1, 0], pool[:, 1, 1]
    q_THK = qk_norm_rope_write.choose(CPU, dtype, kind).run(
        qkv_TC.clone(), rows, cos_sin_PK, k_pages, v_pages, shape, norms[0], norms[1], 1e-6
    )
    heads = qkv_TC.double().view(tokens, shape.heads + 2 * shape.kv_heads, head_dim)
    q, k, v = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
    assert_near(q_THK, _norm_rotate(q, norms[0], cos_sin_PK, rows), dtype)
    blocks, offsets = rows.write_T // block_tokens, rows.write_T % block_tokens
    assert_near(k_pages[blocks, :, offsets], _norm_rotate(k, norms[1], cos_sin_PK, rows), dtype)
    assert torch.equal(v_pages[blocks, :, offsets], v.to(dtype))
    written = tokens * shape.kv_heads * head_dim * 2
    assert int((~pool.isnan()).sum()) == written, "it wrote elsewhere"


def _norm_rotate(x: Tensor, norm: Tensor | None, cos_sin_PK: Tensor, rows: Rows) -> Tensor:
    if norm is not None:
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.double()
    half = x.shape[-1] // 2
    angles = cos_sin_PK.double()[rows.positions_T.long()][:, None]
    cos, sin, a, b = angles[..., :half], angles[..., half:], x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


# --- paged_attention -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """What one call computes: row r has `new[r]` tokens after `computed[r]`."""

    computed: list[int]
    new: list[int]
    block_tokens: int = 4


STEPS = {
    "no-rows": Step([], []),
    "one-token": Step([0], [1]),
    "one-decode": Step([37], [1]),
    "decodes": Step([0, 3, 4, 11, 12, 64, 65], [1] * 7),
    "equal-decodes": Step([20] * 5, [1] * 5, 16),
    "one-prompt": Step([0], [33], 16),
    "chunks": Step([0, 7, 30], [5, 9, 2]),
    "mixed": Step([12, 0, 40, 5, 1, 90], [1, 17, 3, 1, 2, 1], 5),
    "blocks-of-one": Step([6, 0], [2, 3], 1),
}


def _attention_inputs(step: Step, shape: HeadShape, dtype: torch.dtype) -> tuple[Tensor, Tensor, Rows]:
    """q, a pool that is NaN wherever no row's context is, and the rows; blocks are scattered."""
    lengths = [a + b for a, b in zip(step.computed, step.new, strict=True)]
    needed = [-(-length // step.block_tokens) for length in lengths]
    order = torch.randperm(sum(needed) + 3, generator=torch.Generator().manual_seed(4)).tolist()
    tables = [[order.pop() for _ in range(count)] for count in needed]
    pool = torch.full((sum(needed) + 3, 2, 2, shape.kv_heads, step.block_tokens, shape.head_dim), NAN, dtype=dtype)
    for row, (table, length) in enumerate(zip(tables, lengths, strict=True)):
        kv = randn(length, 2, shape.kv_heads, shape.head_dim, dtype=dtype, seed=100 + row)
        for position in range(length):
            block, offset = table[position // step.block_tokens], position % step.block_tokens
            pool[block, 1, :, :, offset] = kv[position]
    q_THK = randn(sum(step.new), shape.heads, shape.head_dim, dtype=dtype, seed=5)
    return q_THK, pool, make_rows(step.computed, step.new, tables, step.block_tokens)


def _attention_truth(
    q_THK: Tensor, pool: Tensor, rows: Rows, scale: float, window: int | None, softcap: float | None
) -> Iterator[Tensor]:
    """Token by token and head by head, in float64: as plain as the contract."""
    block_tokens, queries = pool.shape[4], q_THK.shape[1] // pool.shape[3]
    starts = rows.query_starts_R1.tolist()
    for row, context in enumerate(rows.context_lens_R.tolist()):
        places = [(int(rows.block_tables_RM[row, j // block_tokens]), j % block_tokens) for j in range(context)]
        k_jGK = torch.stack([pool[block, 1, 0, :, offset] for block, offset in places]).double()
        v_jGK = torch.stack([pool[block, 1, 1, :, offset] for block, offset in places]).double()
        for token in range(starts[row], starts[row + 1]):
            position = context - (starts[row + 1] - token)
            first = 0 if window is None else max(0, position - window + 1)
            seen = slice(first, position + 1)
            heads = []
            for head in range(q_THK.shape[1]):
                scores = k_jGK[seen, head // queries] @ q_THK[token, head].double() * scale
                if softcap is not None:
                    scores = softcap * (scores / softcap).tanh()
                heads.append(scores.softmax(0) @ v_jGK[seen, head // queries])
            yield torch.stack(heads)


def _check_attention(
    dtype: torch.dtype, kind: str, step: Step, shape: HeadShape, window: int | None = None, softcap: float | None = None
) -> None:
    q_THK, pool, rows = _attention_inputs(step, shape, dtype)
    scale = shape.head_dim**-0.5 * 2
    truth = list(_attention_truth(q_THK, pool, rows, scale, window, softcap))
    expected = torch.stack(truth) if truth else torch.empty(q_THK.shape, dtype=torch.float64)
    run = paged_attention.choose(CPU, dtype, kind).run
    for q in (q_THK, strided(q_THK.flatten(1)).view(q_THK.shape)):
        assert_near(run(q, pool[:, 1, 0], pool[:, 1, 1], rows, scale, window, softcap), expected, dtype)


@each_implementation(paged_attention)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_paged_attention_steps(dtype: torch.dtype, kind: str, step: Step) -> None:
    _check_attention(dtype, kind, step, HeadShape(4, 2, 16))


@each_implementation(paged_attention)
@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_paged_attention_heads(dtype: torch.dtype, kind: str, shape: HeadShape) -> None:
    _check_attention(dtype, kind, STEPS["mixed"], shape)


@each_implementation(paged_attention)
@pytest.mark.parametrize("window", [1, 6, 1000])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_paged_attention_window_and_softcap(dtype: torch.dtype, kind: str, window: int, softcap: float | None) -> None:
    _check_attention(dtype, kind, STEPS["mixed"], HeadShape(4, 2, 8), window, softcap)


@each_implementation(paged_attention)
def test_paged_attention_softcap_alone(dtype: torch.dtype, kind: str) -> None:
    _check_attention(dtype, kind, STEPS["mixed"], HeadShape(7, 1, 80), softcap=2.0)


@each_implementation(paged_attention)
def test_paged_attention_does_not_read_what_left_the_window(dtype: torch.dtype, kind: str) -> None:
    step, shape, window = Step([30], [2]), HeadShape(2, 1, 8), 5
    q_THK, pool, rows = _attention_inputs(step, shape, dtype)
    table = rows.block_tables_RM[0]
    for position in range(32 - 1 - window):  # the first of the two queries, at 30, sees 26 and later
        pool[int(table[position // 4]), :, :, :, position % 4] = NAN
    out = paged_attention.choose(CPU, dtype, kind).run(q_THK, pool[:, 1, 0], pool[:, 1, 1], rows, 1.0, window)
    assert out.isfinite().all()
