"""Every Triton kernel against its reference, in Triton's interpreter, at small odd shapes.

The interpreter cuts float32 off to bfloat16 where a GPU rounds, multiplies bfloat16 matrices as if they were integers,
and loses the carry when it rounds to 8 bits. So matrix products are tested in float32 and float16 here, and quantised
outputs before their rounding or where it has nothing to do; tests/gpu tests the rest.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cpu.kernels.test_ops import (
    HEADS,
    STEPS,
    Step,
    _attention_inputs,
    _attention_truth,
    assert_near,
    randn,
    strided,
)
from tests.cpu.paged import PagedModel, Sequence, make_rows
from tests.cpu.tiny_models import TinyModel, make_tiny_model, random_prompt
from tests.cpu.triton.gluon import interpreted
from tests.cpu.triton.warps import interpreted_by_warps
from tradewind.config import ModelConfig
from tradewind.kernels.add_rms_norm.triton import TritonAddRmsNorm, add_rms_norm_kernel
from tradewind.kernels.chained_linear import PreparedRows, diagonal, registers
from tradewind.kernels.chained_linear.reference import ReferenceChainedLinear
from tradewind.kernels.chained_linear.triton import Launch, Place, TritonChainedLinear, chained_linear, implementation
from tradewind.kernels.embedding.triton import TritonEmbedding
from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_attention.one_row import OneRow
from tradewind.kernels.fused_attention.pieces import ABSENT
from tradewind.kernels.fused_attention.reference import fused_attention as attend_plainly
from tradewind.kernels.fused_attention.some_rows import SomeRows
from tradewind.kernels.fused_attention.triton import TritonFusedAttention
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.fused_linear.triton import Extras, fused_linear, launched
from tradewind.kernels.gated_linear import triton as gated_linear
from tradewind.kernels.gated_linear.triton import TritonGatedLinear
from tradewind.kernels.gpu import Chip
from tradewind.kernels.host_copy.triton import TritonHostCopy
from tradewind.kernels.linear import LinearWeight, Pack, blocks, fp8, fp8_blocks, int4, lossless, reference
from tradewind.kernels.linear import triton as linear
from tradewind.kernels.linear.int4 import Int4
from tradewind.kernels.linear.tactics import ChainedTactic, FusedTactic, Measured, Tactics
from tradewind.kernels.linear_add_norm import Bounded
from tradewind.kernels.linear_add_norm import triton as linear_add_norm
from tradewind.kernels.linear_add_norm.reference import ReferenceLinearAddNorm
from tradewind.kernels.linear_add_norm.triton import TritonLinearAddNorm
from tradewind.kernels.ops import choose_ops
from tradewind.kernels.paged_attention import warp_specialised
from tradewind.kernels.paged_attention.triton import LARGE, TritonPagedAttention, small_tile
from tradewind.kernels.qk_norm_rope_write import reference as rope_reference
from tradewind.kernels.qk_norm_rope_write.triton import TritonQkNormRopeWrite
from tradewind.kernels.quantised_rows import FP8, MeasuredRows, QuantisedRows, quantise_rows
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.kernels.sample import DrawColumns, SampleRows
from tradewind.kernels.sample import reference as sample_reference
from tradewind.kernels.sample.triton import TritonDraw
from tradewind.kernels.silu_mul.triton import TritonSiluMul, silu_mul_kernel
from tradewind.kernels.step_inputs import RowColumns, SlotTables, StepTensors
from tradewind.kernels.step_inputs import reference as step_inputs_reference
from tradewind.kernels.step_inputs.triton import TritonStepInputs
from tradewind.models.registry import load_model

CPU = torch.device("cpu")
CHIP = Chip(processors=3)
HOPPER = Chip(processors=3, capability=(9, 0))
NAN = float("nan")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
WIDEN = {dtype: (dtype, torch.float32) for dtype in DTYPES}


def assert_sum(actual: Tensor, total: Tensor) -> None:
    """Equal, but for the interpreter's bfloat16."""
    slack = total.double().abs() * (2**-7 if total.dtype == torch.bfloat16 else 0)
    assert bool(((actual.double() - total.double()).abs() <= slack).all())


def assert_scaled(values_TD: Tensor, scales_T1: Tensor, truth_TD: Tensor) -> None:
    """Numbers that would be rounded to 8 bits, and their scales."""
    assert float(values_TD.abs().max()) <= 448
    torch.testing.assert_close(scales_T1.double(), truth_TD.abs().amax(1, keepdim=True) / 448, rtol=1e-4, atol=1e-30)
    torch.testing.assert_close((values_TD * scales_T1).double(), truth_TD, rtol=1e-4, atol=1e-5)


@dtypes
@pytest.mark.parametrize(("tokens", "hidden"), [(0, 8), (1, 1), (3, 7), (5, 130)])
def test_add_rms_norm(dtype: torch.dtype, tokens: int, hidden: int) -> None:
    run = TritonAddRmsNorm(CHIP)
    x_TD, weight_D = randn(tokens, hidden, dtype=dtype), randn(hidden, dtype=dtype, seed=1)
    for residual in (None, randn(tokens, hidden, dtype=dtype, seed=2)):
        total = x_TD if residual is None else x_TD + residual
        truth = total.double() / (total.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
        for x in (x_TD.clone(), strided(x_TD)):
            normed, new_residual = run.plain(x, None if residual is None else residual.clone(), weight_D, 1e-5)
            assert_near(normed, truth, dtype)
            assert_sum(new_residual, total)
        given_up = None if residual is None else residual.clone()
        rows, new_residual = run.quantising(x_TD.clone(), given_up, weight_D, 1e-5)
        assert (rows.values_TD.dtype, rows.dtype) == (FP8, dtype)
        assert_sum(new_residual, total)


@pytest.mark.parametrize("has_residual", [False, True])
def test_add_rms_norm_that_quantises(has_residual: bool) -> None:
    x_TD, weight_D, residual_TD = (randn(*shape, dtype=torch.float32) for shape in ((3, 130), (130,), (3, 130)))
    total = (x_TD + residual_TD if has_residual else x_TD).double()
    truth = total / (total.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D.double()
    out_TD, scales_T1 = torch.full((3, 130), NAN), torch.full((3, 1), NAN)
    add_rms_norm_kernel[(3,)](
        x_TD, 130, residual_TD if has_residual else None, weight_D, out_TD, scales_T1, 130, 1e-5,
        HAS_RESIDUAL=has_residual, QUANTISES=True, OVERLAPS=False, BLOCK=256,
    )  # fmt: skip
    assert_scaled(out_TD, scales_T1, truth)


@dtypes
@pytest.mark.parametrize("ids", [[], [6], [2, 2, 0]])
@pytest.mark.parametrize("width", [1, 130, 2100])
def test_embedding(dtype: torch.dtype, ids: list[int], width: int) -> None:
    weight_VD = randn(7, width, dtype=dtype)
    for kind in (torch.int32, torch.int64):
        x_TD = TritonEmbedding(CHIP)(torch.tensor(ids, dtype=kind), weight_VD)
        assert torch.equal(x_TD, weight_VD[torch.tensor(ids, dtype=torch.int64)])


@dtypes
@pytest.mark.parametrize(("tokens", "ffn"), [(0, 8), (1, 1), (3, 7), (2, 1100)])
def test_silu_mul(dtype: torch.dtype, tokens: int, ffn: int) -> None:
    run = TritonSiluMul(CHIP)
    gate_up = randn(tokens, 2 * ffn, dtype=dtype, scale=4.0)
    gate, up = gate_up.double().chunk(2, dim=-1)
    truth = gate / (1 + (-gate).exp()) * up
    for x in (gate_up.clone(), strided(gate_up)):
        assert_near(run.plain(x), truth, dtype)
    rows = run.quantising(gate_up)
    assert (rows.values_TD.dtype, rows.dtype, rows.shape) == (FP8, dtype, truth.shape)


def test_silu_mul_that_quantises() -> None:
    gate_up = randn(3, 260, dtype=torch.float32, scale=4.0)
    gate, up = gate_up.double().chunk(2, dim=-1)
    out_TF, scales_T1 = torch.full((3, 130), NAN), torch.full((3, 1), NAN)
    silu_mul_kernel[(3, 1)](gate_up, 260, out_TF, scales_T1, 130, QUANTISES=True, OVERLAPS=False, BLOCK=256)
    assert_scaled(out_TF, scales_T1, gate / (1 + (-gate).exp()) * up)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", HEADS, ids=str)
@pytest.mark.parametrize("with_norm", [False, True])
def test_qk_norm_rope_write(dtype: torch.dtype, shape: HeadShape, with_norm: bool) -> None:
    rows = make_rows([9, 0, 2], [2, 1, 3], [[5, 0, 7, 2], [3], [6, 1]], 4)
    qkv_TC = randn(6, shape.qkv_features, dtype=dtype)
    cos_sin_PK = torch.randn(20, shape.head_dim, generator=torch.Generator().manual_seed(1))
    norms = [randn(shape.head_dim, dtype=dtype, seed=seed) if with_norm else None for seed in (2, 3)]
    pool, wide_pool = (
        torch.full((8, 3, 2, shape.kv_heads, 4, shape.head_dim), NAN, dtype=kind) for kind in WIDEN[dtype]
    )
    more = (shape, *norms, 1e-6)
    q_THK = TritonQkNormRopeWrite(CHIP)(qkv_TC.clone(), rows, cos_sin_PK, pool[:, 1, 0], pool[:, 1, 1], *more)
    wide = [None if norm is None else norm.float() for norm in norms]
    truth_THK = rope_reference.qk_norm_rope_write(
        qkv_TC.float(), rows, cos_sin_PK, wide_pool[:, 1, 0], wide_pool[:, 1, 1], shape, *wide, 1e-6
    )
    assert_near(q_THK, truth_THK, dtype)
    written = ~wide_pool.isnan()
    assert torch.equal(written, ~pool.float().isnan())
    assert_near(pool[written], wide_pool[written], dtype)


def test_qk_norm_rope_write_into_8_bit_pages() -> None:
    shape, rows = HeadShape(4, 2, 16), make_rows([9, 0, 2], [2, 1, 3], [[5, 0, 7, 2], [3], [6, 1]], 4)
    # Numbers that have 8 bits already, and some that are too large; a rotation by 0 leaves them so.
    qkv_TC = randn(6, shape.qkv_features, dtype=torch.float32, scale=30.0).to(FP8).to(torch.float16)
    qkv_TC[::2, ::5] = 1000.0
    cos_sin_PK = torch.cat([torch.ones(20, 8), torch.zeros(20, 8)], 1)
    pool = torch.zeros(8, 1, 2, 2, 4, 16).to(FP8)
    q_THK = TritonQkNormRopeWrite(CHIP)(
        qkv_TC.clone(), rows, cos_sin_PK, pool[:, 0, 0], pool[:, 0, 1], shape, None, None, 0.0
    )
    assert torch.equal(q_THK.flatten(1), qkv_TC[:, :64])
    blocks, offsets = rows.write_T // 4, rows.write_T % 4
    kv = qkv_TC[:, 64:].float().clamp(-448, 448).view(6, 2, 2, 16)
    assert torch.equal(pool[blocks, 0, :, :, offsets].float(), kv)


def check_attention(
    dtype: torch.dtype,
    step: Step,
    shape: HeadShape,
    window: int | None = None,
    softcap: float | None = None,
    fp8: bool = False,
    chip: Chip = CHIP,
) -> None:
    q_THK, pool, rows = _attention_inputs(step, shape, dtype)
    if fp8:
        pool = pool.to(FP8)
    scale = shape.head_dim**-0.5 * 2
    truth = list(_attention_truth(q_THK, pool.to(dtype), rows, scale, window, softcap))
    expected = torch.stack(truth) if truth else torch.empty(q_THK.shape, dtype=torch.float64)
    for exact, q in ((True, q_THK), (False, strided(q_THK.flatten(1)).view(q_THK.shape))):
        run = TritonPagedAttention(CPU, chip, exact=exact)
        assert_near(run(q, pool[:, 1, 0], pool[:, 1, 1], rows, scale, window, softcap), expected, dtype)
        assert not run._arrivals.any()
        assert not run._dealt.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_attention_steps(dtype: torch.dtype, step: Step) -> None:
    check_attention(dtype, step, HeadShape(4, 2, 16))


@pytest.mark.parametrize("shape", HEADS, ids=str)
def test_attention_heads(shape: HeadShape) -> None:
    check_attention(torch.float32, STEPS["mixed"], shape)


@pytest.mark.parametrize(("window", "softcap"), [(1, None), (6, 1.5), (1000, None), (None, 1.5)])
def test_attention_window_and_softcap(window: int | None, softcap: float | None) -> None:
    check_attention(torch.float32, STEPS["mixed"], HeadShape(4, 2, 8), window, softcap)


@pytest.mark.parametrize("step", ["decodes", "mixed"])
def test_attention_of_8_bit_pages(step: str) -> None:
    check_attention(torch.float16, STEPS[step], HeadShape(4, 2, 32), fp8=True)


@pytest.mark.parametrize("in_8_bits", [False, True])
def test_attention_of_a_row_that_is_alone(in_8_bits: bool) -> None:
    check_attention(torch.float16, Step([600], [1]), HeadShape(2, 1, 32), fp8=in_8_bits)


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize(
    "step",
    [
        Step([700, 3], [1, 1]),
        Step([500, 40], [60, 1]),
        Step([600, 610, 620], [1, 1, 1]),
        Step([900, 10, 300, 650, 420, 90], [1, 1, 1, 1, 1, 1]),
    ],
    ids=["decode", "chunk", "rows alike", "rows that differ"],
)
def test_attention_splits_long_contexts(step: Step, window: int | None) -> None:
    check_attention(torch.float32, step, HeadShape(2, 1, 16), window)


@pytest.mark.parametrize("head_dim", [32, 48, 33])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, 1.5), (None, 1.5)])
def test_attention_of_prompts_over_8_bit_pages(head_dim: int, window: int | None, softcap: float | None) -> None:
    """Queries that are sums of two numbers; heads that fill a tile, that do not, and of odd size."""
    check_attention(torch.float16, Step([0, 30], [40, 20]), HeadShape(4, 2, head_dim), window, softcap, fp8=True)


def test_what_is_no_number_stays_none_in_two_of_8_bits() -> None:
    """As do the queries beside it, among them one of zeros and one whose numbers differ widely."""
    q_THK, pool, rows = _attention_inputs(Step([0], [40]), HeadShape(2, 2, 32), torch.float16)
    q_THK[3] = 0.0
    q_THK[7, 0, 0] = 900.0
    q_THK[9, 1, 2] = NAN
    out_THK = TritonPagedAttention(CPU, CHIP)(q_THK, pool[:, 1, 0].to(FP8), pool[:, 1, 1].to(FP8), rows, 0.3)
    assert bool(out_THK[9, 1].isnan().all())
    q_THK[9, 1, 2] = 0.0
    truth = torch.stack(list(_attention_truth(q_THK, pool.to(FP8).half(), rows, 0.3, None, None)))
    out_THK[9, 1] = truth[9, 1].half()
    assert_near(out_THK, truth, torch.float16)


@pytest.mark.parametrize("fp8", [False, True], ids=["16 bits", "8 bits"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("window", [None, 37, 90])
@pytest.mark.parametrize(
    ("step", "programs"),
    [
        (Step([0, 200], [170, 33], 16), 1),
        (Step([300, 5, 0], [20, 90, 1], 32), 2),
        (Step([1000], [9], 48), 3),
        (Step([0], [256], 16), 20),
    ],
    ids=["two", "mixed", "splits", "splits of which some see nothing"],
)
def test_attention_by_specialised_warps(
    step: Step,
    programs: int,
    window: int | None,
    head_dim: int,
    fp8: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keys and values come and go in whichever order they may; what is nobody's is no number."""
    monkeypatch.setattr(warp_specialised, "_LEAST_WINDOW", 1)
    seed = repr((step, window, head_dim, fp8))
    kernel = interpreted_by_warps(warp_specialised.warp_specialised_kernel, seed)
    monkeypatch.setattr(warp_specialised, "warp_specialised_kernel", kernel)
    check_attention(
        torch.float16, step, HeadShape(4, 2, head_dim), window, None, fp8, Chip(programs, capability=(9, 0))
    )


def test_specialised_warps_take_long_contexts_on_hopper() -> None:
    q_THK, pages = torch.empty(9, 4, 64, dtype=torch.float16), torch.empty(2, 2, 16, 64, dtype=torch.float16)
    hopper, other = Chip(1, capability=(9, 0)), Chip(1, capability=(10, 0))
    takes = warp_specialised.takes
    assert takes(q_THK, pages, hopper, None, None)
    assert takes(q_THK, pages.to(FP8), hopper, 512, None)
    assert not takes(q_THK, pages, other, None, None)
    assert not takes(q_THK, pages, hopper, 511, None)
    assert not takes(q_THK, pages, hopper, None, 3.0)
    assert not takes(q_THK.float(), pages, hopper, None, None)
    assert not takes(q_THK, pages.float(), hopper, None, None)
    assert not takes(q_THK[:, :, :32], pages[..., :32], hopper, None, None)


@pytest.mark.parametrize("heads", [8, 9, 16, 17, 71])
def test_attention_of_many_queries_for_a_key_value_head(heads: int) -> None:
    """They fill a tile, or two; they are its rows, not its columns; and their tiles are too large for splits."""
    check_attention(torch.float32, Step([500, 3], [1, 1]), HeadShape(heads, 1, 16))


def test_all_pieces_of_contexts_have_room() -> None:
    run = TritonPagedAttention(CPU, CHIP, widest=16)
    for itemsize, rows, group in itertools.product((1, 2, 4), (1, 16, 17, 40, 64, 65, 1000), range(1, 65)):
        for tile in (small_tile(itemsize, rows, 16, group), LARGE[itemsize]):
            pieces = tile.pieces * tile.programs * CHIP.processors
            assert pieces * tile.rows * 16 <= len(run._partials)
            assert 2 * pieces * tile.rows <= len(run._marks)
            assert pieces <= len(run._arrivals)


def test_attention_leaves_out_rows_without_tokens() -> None:
    shape = HeadShape(4, 2, 16)
    q_THK, pool, rows = _attention_inputs(Step([20, 3], [1, 1]), shape, torch.float32)
    run = TritonPagedAttention(CPU, CHIP)
    plain = run(q_THK, pool[:, 1, 0], pool[:, 1, 1], rows, 0.3)
    more = {
        "query_starts_R1": torch.tensor([0, 1, 2, 2, 2], dtype=torch.int32),
        "context_lens_R": torch.cat([rows.context_lens_R, torch.zeros(2, dtype=torch.int32)]),
        "block_tables_RM": torch.cat([rows.block_tables_RM, torch.full_like(rows.block_tables_RM, 2**30)]),
    }
    padded = type(rows)(**{**vars(rows), **more})
    assert torch.equal(run(q_THK, pool[:, 1, 0], pool[:, 1, 1], padded, 0.3), plain)


# Heads, context, tokens of a block, window, cap: contexts that are the token alone, a piece, several pieces of a tile,
# pieces of more than a tile, and more pieces than are added up at once; windows that begin inside of a block.
FUSED = {
    "the token alone": (HeadShape(4, 2, 16), 1, 4, None, None),
    "first of a block": (HeadShape(4, 2, 16), 129, 16, None, None),
    "a piece": (HeadShape(7, 1, 128), 100, 16, None, None),
    "odd blocks": (HeadShape(6, 2, 80), 333, 5, 300, None),
    "blocks of one": (HeadShape(3, 3, 8), 130, 1, None, 1.5),
    "large blocks": (HeadShape(16, 1, 16), 600, 256, None, None),
    "long pieces": (HeadShape(2, 2, 16), 3000, 16, None, 1.5),
    "many pieces": (HeadShape(2, 1, 16), 2400, 16, None, None),
    "long pieces of a window": (HeadShape(4, 4, 32), 2000, 16, 1501, None),
    "a window inside of a block": (HeadShape(4, 2, 16), 50, 16, 10, None),
    "a window of one": (HeadShape(3, 1, 2), 50, 16, 1, None),
}


def fused_attention_inputs(
    shape: HeadShape, context: int, block_tokens: int, window: int | None, dtype: torch.dtype
) -> tuple[Tensor, Rows, Tensor]:
    """qkv, the row, and a pool that is NaN wherever it is not read: past the context, and before the window."""
    blocks = -(-context // block_tokens)
    table = torch.randperm(blocks + 2, generator=torch.Generator().manual_seed(4)).tolist()[:blocks]
    rows = make_rows([context - 1], [1], [table], block_tokens)
    pool = torch.full((blocks + 2, 3, 2, shape.kv_heads, block_tokens, shape.head_dim), NAN, dtype=dtype)
    seen = torch.arange(max(0, context - (window or context)), context - 1)
    old = randn(len(seen), 2, shape.kv_heads, shape.head_dim, dtype=dtype, seed=6)
    pool[torch.tensor(table)[seen // block_tokens], 1, :, :, seen % block_tokens] = old
    return randn(1, shape.qkv_features, dtype=dtype, seed=7), rows, pool


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("case", FUSED.values(), ids=FUSED)
def test_fused_attention(case: tuple[HeadShape, int, int, int | None, float | None], with_norm: bool) -> None:
    shape, context, block_tokens, window, softcap = case
    dtype = torch.float16
    qkv_TC, rows, pool = fused_attention_inputs(shape, context, block_tokens, window, dtype)
    norms = [randn(shape.head_dim, dtype=dtype, seed=seed) if with_norm else None for seed in (2, 3)]
    cos_sin_PK = torch.randn(context, shape.head_dim, generator=torch.Generator().manual_seed(1))
    heads = LayerHeads(shape, cos_sin_PK, norms[0], norms[1], 1e-6, shape.head_dim**-0.5, window, softcap)
    wide_pool = pool.double()
    truth = attend_plainly(qkv_TC.double(), rows, wide_pool[:, 1, 0], wide_pool[:, 1, 1], heads)
    run, given = OneRow(CPU, Chip(24)), qkv_TC.clone()
    assert run.takes(rows, shape)
    assert_near(run(given, rows, pool[:, 1, 0], pool[:, 1, 1], heads), truth, dtype)
    assert torch.equal(given, qkv_TC)
    for left in (run._partials, run._marks):
        assert bool((left.view(torch.int32) == ABSENT.value).all())
    assert torch.equal(wide_pool.isnan(), pool.isnan())
    assert_near(pool.nan_to_num(), wide_pool.nan_to_num(), dtype)


@pytest.mark.parametrize("context", [1, 70, 400, 3500])
def test_fused_attention_over_8_bit_pages(context: int) -> None:
    """New keys and values are 8-bit numbers already, and some too large for them; a rotation by 0 leaves them so."""
    shape = HeadShape(4, 2, 32)
    qkv_TC, rows, pool = fused_attention_inputs(shape, context, 16, None, torch.float16)
    pool, qkv_TC = pool.to(FP8), qkv_TC.to(FP8).half()
    qkv_TC[0, 128::7] = 1000.0
    cos_sin_PK = torch.cat([torch.ones(context, 16), torch.zeros(context, 16)], 1)
    heads = LayerHeads(shape, cos_sin_PK, None, None, 0.0, 0.01)
    wide_pool = pool.double()
    truth = attend_plainly(
        torch.cat([qkv_TC[:, :128], qkv_TC[:, 128:].clamp(max=448.0)], 1).double(),
        rows, wide_pool[:, 1, 0], wide_pool[:, 1, 1], heads,
    )  # fmt: skip
    out_TC = OneRow(CPU, Chip(24))(qkv_TC, rows, pool[:, 1, 0], pool[:, 1, 1], heads)
    assert_near(out_TC, truth, torch.float16)
    assert torch.equal(pool.double().nan_to_num(), wide_pool.nan_to_num())


def test_fused_attention_of_a_step_without_tokens_writes_its_place_alone() -> None:
    shape = HeadShape(4, 2, 16)
    qkv_TC, rows, pool = fused_attention_inputs(shape, 1, 4, None, torch.float16)
    nobody = replace(
        rows,
        query_starts_R1=torch.zeros(2, dtype=torch.int32),
        context_lens_R=torch.zeros(1, dtype=torch.int32),
        block_tables_RM=torch.full((1, 3), 2**30, dtype=torch.int32),
    )
    heads = LayerHeads(shape, torch.randn(4, 16), None, None, 0.0, 0.3)
    OneRow(CPU, Chip(24))(qkv_TC, nobody, pool[:, 1, 0], pool[:, 1, 1], heads)
    place = int(rows.write_T)
    assert bool(pool[place // 4, 1, :, :, place % 4].isfinite().all())
    assert int(pool.isfinite().sum()) == 2 * shape.kv_heads * shape.head_dim


SOME: dict[str, tuple[HeadShape, list[int], int, int | None, float | None]] = {
    "alike": (HeadShape(4, 2, 32), [40, 40, 40], 8, None, None),
    "of all lengths": (HeadShape(3, 1, 16), [1, 700, 16, 17, 333], 16, None, None),
    "few, cut": (HeadShape(4, 4, 20), [900, 901], 16, None, None),
    "a window, soft-capped": (HeadShape(4, 2, 16), [500, 3, 90], 16, 70, 4.0),
    "a window of one": (HeadShape(2, 2, 16), [50, 1], 16, 1, None),
}


def some_rows_inputs(
    shape: HeadShape, contexts: list[int], block_tokens: int, dtype: torch.dtype
) -> tuple[Tensor, Rows, Tensor]:
    """qkv, rows of one token each, with one that has none in the middle, and what they saw before."""
    tables, blocks = [], 0
    for context in contexts:
        count = -(-context // block_tokens)
        tables.append(list(range(blocks, blocks + count))[::-1])
        blocks += count
    rows = make_rows([context - 1 for context in contexts], [1] * len(contexts), tables, block_tokens)
    pool = randn(blocks, 3, 2, shape.kv_heads, block_tokens, shape.head_dim, dtype=dtype, seed=6)
    starts, lengths = rows.query_starts_R1, rows.context_lens_R
    with_none = replace(
        rows,
        query_starts_R1=torch.cat([starts[:2], starts[1:]]),
        context_lens_R=torch.cat([lengths[:1], torch.zeros(1, dtype=torch.int32), lengths[1:]]),
        block_tables_RM=torch.cat(
            [rows.block_tables_RM[:1], rows.block_tables_RM[:1] + 10**6, rows.block_tables_RM[1:]]
        ),
    )
    return randn(len(contexts), shape.qkv_features, dtype=dtype, seed=7), with_none, pool


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("case", SOME.values(), ids=SOME)
def test_fused_attention_of_some_rows(
    case: tuple[HeadShape, list[int], int, int | None, float | None], with_norm: bool
) -> None:
    shape, contexts, block_tokens, window, softcap = case
    dtype = torch.float16
    qkv_TC, rows, pool = some_rows_inputs(shape, contexts, block_tokens, dtype)
    norms = [randn(shape.head_dim, dtype=dtype, seed=seed) if with_norm else None for seed in (2, 3)]
    cos_sin_PK = torch.randn(max(contexts), shape.head_dim, generator=torch.Generator().manual_seed(1))
    heads = LayerHeads(shape, cos_sin_PK, norms[0], norms[1], 1e-6, shape.head_dim**-0.5, window, softcap)
    wide_pool = pool.double()
    truth = attend_plainly(qkv_TC.double(), rows, wide_pool[:, 1, 0], wide_pool[:, 1, 1], heads)
    run, given = SomeRows(CPU, Chip(24)), qkv_TC.clone()
    assert run.takes(rows, shape)
    assert_near(run(given, rows, pool[:, 1, 0], pool[:, 1, 1], heads), truth, dtype)
    assert torch.equal(given, qkv_TC)
    largest = float(truth.abs().max())
    heads = replace(heads, largest=largest)
    assert run.quantised(given, rows, pool[:, 1, 0], pool[:, 1, 1], heads).shape == truth.shape
    # Left in 32 bits: the interpreter does not round to 8 as a GPU does.
    values_TC, scales_T1 = torch.full(truth.shape, torch.nan), torch.full((len(truth), 1), torch.nan)
    squares_TG = torch.full((len(truth), shape.kv_heads), torch.nan)
    of_8_bits = scales_T1, squares_TG
    run._run(given, rows, (pool[:, 1, 0], pool[:, 1, 1]), heads, values_TC, of_8_bits)
    squares = truth.square().unflatten(1, (shape.kv_heads, -1)).sum(2).float()
    torch.testing.assert_close(squares_TG, squares, rtol=1e-2, atol=0)
    assert_near(QuantisedRows(values_TC, scales_T1, dtype).dense().to(dtype), truth, dtype)
    torch.testing.assert_close(scales_T1, torch.full_like(scales_T1, largest / 448.0))
    run._run(given, rows, (pool[:, 1, 0], pool[:, 1, 1]), replace(heads, largest=largest / 2), values_TC, of_8_bits)
    assert float(values_TC.abs().max()) == 448.0  # and no more
    for left in (run._partials, run._marks):
        assert bool((left.view(torch.int32) == ABSENT.value).all())
    assert not run._dealt.any()
    assert_near(pool, wide_pool, dtype)


@pytest.mark.parametrize(
    ("shape", "contexts", "block_tokens", "processors"),
    [(HeadShape(8, 2, 32), [1, 300, 40, 129], 16, 4), (HeadShape(4, 1, 32), [131, 131], 256, 132)],
    ids=["pieces of all lengths", "no piece shorter than a step"],
)
def test_fused_attention_of_some_rows_over_8_bit_pages(
    shape: HeadShape, contexts: list[int], block_tokens: int, processors: int
) -> None:
    """As rotating first and attending then; the pages to the bit."""
    qkv_TC, rows, pool = some_rows_inputs(shape, contexts, block_tokens, torch.float16)
    cos_sin_PK, chip = torch.randn(300, 32, generator=torch.Generator().manual_seed(1)), Chip(processors)
    heads = LayerHeads(shape, cos_sin_PK, None, None, 0.0, 0.2)
    ours, theirs = pool.to(FP8), pool.to(FP8)
    out = SomeRows(CPU, chip)(qkv_TC, rows, ours[:, 1, 0], ours[:, 1, 1], heads)
    pages = theirs[:, 1, 0], theirs[:, 1, 1]
    q_THK = TritonQkNormRopeWrite(chip)(qkv_TC.clone(), rows, cos_sin_PK, *pages, shape, None, None, 0.0)
    truth_TC = TritonPagedAttention(CPU, chip)(q_THK, *pages, rows, 0.2).flatten(1)
    assert_near(out, truth_TC.double(), torch.float16)
    assert torch.equal(ours.float(), theirs.float())


def test_some_rows_takes_decodes() -> None:
    run, shape = SomeRows(CPU, Chip(132)), HeadShape(32, 8, 128)
    steps = [1], [1, 1], [1] * 64, [1] * 65, [1, 2]
    steps = [make_rows([9] * len(new), list(new), [[0, 1]] * len(new), 16) for new in steps]
    assert [run.takes(rows, shape) for rows in steps] == [False, True, True, False, False]
    assert not run.takes(steps[1], HeadShape(32, 1, 128))


def test_one_row_takes_steps_of_one_token() -> None:
    run = OneRow(CPU, Chip(132))
    one, two, prompt = (make_rows([9] * len(new), new, [[0, 1]] * len(new), 16) for new in ([1], [1, 1], [2]))
    assert [run.takes(rows, HeadShape(32, 8, 128)) for rows in (one, two, prompt)] == [True, False, False]
    shapes = [HeadShape(14, 2, 64), HeadShape(48, 48, 128)], [HeadShape(4, 1, 64), HeadShape(8, 4, 256)]
    assert [[run.takes(one, shape) for shape in some] for some in shapes] == [[True, True], [False, False]]


def test_layers_of_fused_attention(tmp_path: Path) -> None:
    """A model decodes the same tokens with it, and a single row with nothing else."""
    shape = TinyModel(heads=4, kv_heads=2, hidden=64, ffn=96, layers=2)
    ops = choose_ops(CPU, torch.float32, "reference")

    def of_prompts(q_THK: Tensor, *more: Any) -> Tensor:
        assert len(q_THK) > 1
        return ops.paged_attention(q_THK, *more)

    fused = replace(ops, paged_attention=of_prompts, fused_attention=TritonFusedAttention(CPU, Chip(24)))
    directory, prompt, config = make_tiny_model(tmp_path, shape), random_prompt(shape.vocab, 7), ModelConfig()
    plain, other = (PagedModel(load_model(directory, config, "cpu", some), block_tokens=8) for some in (ops, fused))
    assert plain.greedy(prompt, 3) == other.greedy(prompt, 3)


@pytest.mark.parametrize("tokens", [0, 1, 3, 17])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (31, 129), (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_linear_of_few_rows(dtype: torch.dtype, tokens: int, outputs: int, inputs: int) -> None:
    tactic = linear.Tactic(32, 64, 4, 2, rows_first=tokens == 3)
    x_TD, residual_TN = randn(tokens, inputs, dtype=dtype), randn(tokens, outputs, dtype=dtype, seed=1)
    weight_ND, bias_N = randn(outputs, inputs, dtype=dtype, seed=2), randn(outputs, dtype=dtype, seed=3)
    for bias, residual in itertools.product([None, bias_N], [None, residual_TN]):
        truth = x_TD.double() @ weight_ND.double().T
        truth = truth + (0 if bias is None else bias.double()) + (0 if residual is None else residual.double())
        weight = LinearWeight(weight_ND, bias, outputs, inputs)
        for x in (x_TD, strided(x_TD)):
            assert_near(linear.few_rows(x, weight, residual, dtype, tactic, CHIP), truth, dtype)


@pytest.mark.parametrize("tokens", [5, 16, 64])
@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(31, 136), (64, 128)])
def test_linear_by_the_tensor_memory_accelerator(tokens: int, rows_first: bool, outputs: int, inputs: int) -> None:
    """The same bits as by pointers, which are used where the accelerator is not there or cannot."""
    tactic = linear.Tactic(32, 64, 4, 2, rows_first, tma=True)
    x_TD, residual_TN = randn(tokens, inputs, dtype=torch.float16), randn(tokens, outputs, dtype=torch.float16, seed=1)
    bias_N = randn(outputs, dtype=torch.float16, seed=3)
    weight = LinearWeight(randn(outputs, inputs, dtype=torch.float16, seed=2), bias_N, outputs, inputs)
    aside = torch.cat((x_TD[:, :1], x_TD), 1)[:, 1:]
    for x in (x_TD, strided(x_TD), aside):
        theirs = linear.few_rows(x, weight, residual_TN, torch.float32, tactic, CHIP)
        ours = linear.few_rows(x, weight, residual_TN, torch.float32, tactic, HOPPER)
        assert torch.equal(ours, theirs)
    rows, packed = quantise_rows(x_TD), quantise_rows(weight.data)
    weight = LinearWeight(packed.values_TD, bias_N, outputs, inputs, "fp8", (packed.scales_T1,))
    theirs, ours = (linear.few_rows(rows, weight, None, torch.float32, tactic, chip) for chip in (CHIP, HOPPER))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("warps", [4, 8])
def test_linear_of_many_rows(warps: int) -> None:
    """Nearly three groups of 16 tiles of rows, and a tile that is not full."""
    x_TD, weight_ND = randn(16 * 64 * 3 - 70, 16, dtype=torch.float32), randn(100, 16, dtype=torch.float32, seed=2)
    tactic = linear.Tactic(64, 16, warps, 1, rows_first=True)
    y_TN = linear.few_rows(x_TD, LinearWeight(weight_ND, None, 100, 16), None, torch.float32, tactic, CHIP)
    assert_near(y_TN, x_TD.double() @ weight_ND.double().T, torch.float32)


def gated_run(tactic: linear.Tactic, bits: int, outputs: int, inputs: int, chip: Chip) -> TritonGatedLinear:
    """With a table that has this tactic alone."""
    return TritonGatedLinear(chip, Tactics("", (Measured(bits, 64, outputs, inputs, tactic, None, None, gated=True),)))


def gated_truth(x_TD: Tensor, weight_ND: Tensor, bias_N: Tensor | None) -> Tensor:
    y_TN = x_TD.double() @ weight_ND.double().T + (0 if bias_N is None else bias_N.double())
    gate, up = y_TN.chunk(2, 1)
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize("tokens", [2, 17, 64])
@pytest.mark.parametrize("rows_first", [False, True])
@pytest.mark.parametrize("tma", [False, True])
def test_gated_linear(tokens: int, rows_first: bool, tma: bool) -> None:
    outputs, inputs = 192, 128
    x_TD, bias_N = randn(tokens, inputs, dtype=torch.float16), randn(outputs, dtype=torch.float16, seed=3)
    weight_ND = randn(outputs, inputs, dtype=torch.float16, seed=2, scale=0.1)
    run = gated_run(linear.Tactic(64, 64, 4, 2, rows_first, tma), 16, outputs, inputs, HOPPER)
    for bias in (None, bias_N):
        weight = LinearWeight(weight_ND, bias, outputs, inputs)
        assert run.takes(x_TD, weight)
        act = run(x_TD, weight)
        assert isinstance(act, Tensor)
        assert_near(act, gated_truth(x_TD, weight_ND, bias), torch.float16)


@pytest.mark.parametrize("tokens", [2, 33])
def test_gated_linear_of_8_bit_rows(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out is left in 32 bits: the interpreter does not round to 8 as a GPU does."""
    monkeypatch.setattr(gated_linear, "FP8", torch.float32)
    outputs, inputs = 192 * 32, 64  # more than are quantised at once, and not a multiple of them
    rows = quantise_rows(randn(tokens, inputs, dtype=torch.bfloat16))
    packed = quantise_rows(randn(outputs, inputs, dtype=torch.bfloat16, seed=2))
    weight = LinearWeight(packed.values_TD, None, outputs, inputs, "fp8", (packed.scales_T1,))
    run = gated_run(linear.Tactic(64, 32, 4, 2), 8, outputs, inputs, CHIP)
    assert run.takes(rows, weight)
    act = run(rows, weight)
    assert not isinstance(act, Tensor)
    truth = gated_truth(rows.dense(), packed.dense(), None)
    assert float((act.dense().double() - truth).norm() / truth.norm()) < 4e-3
    torch.testing.assert_close(act.values_TD.abs().amax(1), torch.full((tokens,), 448.0))


def test_gated_linear_takes_some_rows_of_its_kind() -> None:
    dense = LinearWeight(randn(192, 128, dtype=torch.float16), None, 192, 128)
    run = gated_run(linear.Tactic(64, 64, 4, 2), 16, 192, 128, CHIP)
    taken = [run.takes(randn(tokens, 128, dtype=torch.float16), dense) for tokens in (1, 2, 64, 65)]
    assert taken == [False, True, True, False]
    assert not run.takes(quantise_rows(randn(3, 128, dtype=torch.float16)), dense)
    assert not run.takes(randn(3, 128, dtype=torch.float16), replace(dense, layout="lossless"))
    assert not run.takes(
        randn(3, 100, dtype=torch.float16), LinearWeight(randn(192, 100, dtype=torch.float16), None, 192, 100)
    )
    nothing = TritonGatedLinear(CHIP, Tactics("", ()))
    assert not nothing.takes(randn(3, 128, dtype=torch.float16), dense)


@pytest.mark.parametrize("tokens", [1, 18])
@pytest.mark.parametrize(("outputs", "inputs"), [(31, 129), (64, 64)])
def test_linear_of_few_8_bit_rows(tokens: int, outputs: int, inputs: int) -> None:
    x_TD = randn(tokens, inputs, dtype=torch.bfloat16)
    rows, packed = quantise_rows(x_TD), quantise_rows(randn(outputs, inputs, dtype=torch.bfloat16, seed=2))
    weight = LinearWeight(packed.values_TD, None, outputs, inputs, "fp8", (packed.scales_T1,))
    truth = rows.dense().double() @ packed.dense().double().T
    y_TN = linear.few_rows(rows, weight, None, torch.float32, linear.Tactic(32, 64, 4, 2), CHIP)
    torch.testing.assert_close(y_TN.double(), truth, rtol=1e-4, atol=1e-4 * float(truth.abs().max()))


def fp8_weight(outputs: int, inputs: int, seed: int, bias_N: Tensor | None = None) -> LinearWeight:
    """Its numbers of 8 bits stored in 32, as those of the rows are here."""
    weight = fp8.pack(randn(outputs, inputs, dtype=torch.bfloat16, seed=seed, scale=inputs**-0.5), bias_N)
    return replace(weight, data=weight.data.float())


def normed_truth(x_TD: Tensor, norm: Norm) -> Tensor:
    wide_TD = x_TD.double()
    return wide_TD / (wide_TD.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight_D.double()


@pytest.mark.parametrize(
    ("tokens", "rows_first", "with_bias"), [(3, False, True), (17, True, False), (64, False, False), (64, True, True)]
)
def test_linear_add_norm(tokens: int, rows_first: bool, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of two sums, a plain product and a gated one; what is in 8 bits on a GPU is left in 32 bits here."""
    for module in (linear_add_norm, gated_linear):
        monkeypatch.setattr(module, "FP8", torch.float32)
    hidden, ffn = 96, 128
    down = fp8_weight(hidden, ffn, 2, randn(hidden, dtype=torch.bfloat16, seed=5) if with_bias else None)
    gate_up, qkv = fp8_weight(2 * ffn, hidden, 3), fp8_weight(64, hidden, 4)
    tactic = linear.Tactic(32, 32, 4, 2, rows_first, tma=True)
    entries = [Measured(32, 64, 1, 1, tactic, None, None, gated=gated) for gated in (False, True)]
    tactics = Tactics("", tuple(entries))
    run, gated = TritonLinearAddNorm(HOPPER, tactics), TritonGatedLinear(HOPPER, tactics)
    norms = [Norm(randn(hidden, dtype=torch.bfloat16, seed=seed), 1e-5) for seed in (6, 7, 8)]
    residual_TD = randn(tokens, hidden, dtype=torch.float32, seed=9)
    normed = run.begin(residual_TD, Bounded.of(norms[0]), 3)
    assert_near(normed.dense(), normed_truth(residual_TD, norms[0]), torch.float32)
    for turn, norm in enumerate(norms[1:], 1):
        rows = gated(normed, gate_up)
        assert isinstance(rows, MeasuredRows)
        assert_near(rows.dense(), gated_truth(normed.dense(), fp8.dense(gate_up), None), torch.float32)
        torch.testing.assert_close(rows.squares_TG.sum(1), rows.dense().square().sum(1), rtol=1e-4, atol=0)
        truth = residual_TD.double() + rows.dense().double() @ fp8.dense(down).double().T
        truth = truth if down.bias_N is None else truth + down.bias_N.double()
        normed = run(rows, down, residual_TD, normed, Bounded.of(norm, down))
        assert_near(residual_TD, truth, torch.float32)
        assert_near(normed.dense(), normed_truth(residual_TD, norm), torch.float32)
        assert float(normed.values_TD.abs().max()) < 448.0
        assert bool((normed.squares_ST[turn + 1 :] == 0).all())
        length_T1 = residual_TD.norm(dim=1, keepdim=True)
        torch.testing.assert_close(normed.lengths_T1(), length_T1, rtol=1e-5, atol=0)
        y_TN = linear.few_rows(normed, qkv, None, torch.float32, tactic, HOPPER)
        assert_near(y_TN, normed.dense().double() @ fp8.dense(qkv).double().T, torch.float32)


@pytest.mark.parametrize("of_bias", [False, True])
def test_linear_add_norm_of_what_adds_most(of_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that points where the longest of the weights does, or a bias, and nothing before: the bound holds and is
    near.
    """
    monkeypatch.setattr(linear_add_norm, "FP8", torch.float32)
    down = fp8_weight(64, 64, 2, randn(64, dtype=torch.bfloat16, seed=5) if of_bias else None)
    tactics = Tactics("", (Measured(32, 64, 1, 1, linear.Tactic(32, 32, 4, 2), None, None),))
    run, norm = TritonLinearAddNorm(CHIP, tactics), Norm(torch.ones(64, dtype=torch.bfloat16), 1e-5)
    wide_ND = fp8.dense(down)
    values_TD = wide_ND[wide_ND.norm(dim=1).argmax()].repeat(3, 1) * (0.0 if of_bias else 1e3)
    rows = MeasuredRows(values_TD, torch.ones(3, 1), torch.float32, values_TD.square().view(3, 4, 16).sum(2))
    residual_TD = torch.zeros(3, 64)
    normed = run(rows, down, residual_TD, run.begin(residual_TD, Bounded.of(norm), 2), Bounded.of(norm, down))
    assert_near(normed.dense(), normed_truth(residual_TD, norm), torch.float32)
    assert 0.8 * 448.0 < float(normed.values_TD.abs().max()) < 448.0


@pytest.mark.parametrize("gain", [0.0, 1e-9, 1.0])
def test_linear_add_norm_of_nothing(gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, sums and gains may be 0, or so small that a quotient of them has no number."""
    monkeypatch.setattr(linear_add_norm, "FP8", torch.float32)
    tactics = Tactics("", (Measured(32, 64, 1, 1, linear.Tactic(32, 32, 4, 2), None, None),))
    run, norm = TritonLinearAddNorm(CHIP, tactics), Norm(torch.full((64,), gain), 1e-5)
    down = replace(fp8.pack(torch.zeros(64, 64), None), data=torch.zeros(64, 64))
    rows = MeasuredRows(torch.zeros(3, 64), torch.zeros(3, 1), torch.float32, torch.zeros(3, 1))
    residual_TD = torch.tensor([0.0, 1.0, 0.0])[:, None].repeat(1, 64)
    for other in (run, ReferenceLinearAddNorm(torch.float32)):
        normed = other.begin(residual_TD, Bounded.of(norm), 2)
        for each in (normed, other(rows, down, residual_TD, normed, Bounded.of(norm, down))):
            torch.testing.assert_close(each.dense(), residual_TD * gain, rtol=1e-4, atol=0)


PACKS = {
    "dense": reference.pack,
    "fp8": fp8.pack,
    "fp8-blocks": fp8_blocks.pack,
    "int4-g32": Int4(32).pack,
    "int4-g128": Int4(128).pack,
}
# The interpreter has no product of bfloat16: weights of that type are multiplied with float32 rows.
ALL_PACKS = {**PACKS, "lossless": lossless.pack}


def numbers(weight: LinearWeight) -> Tensor:
    """What a packed weight stands for, [N, D]."""
    if weight.layout == "dense":
        return weight.data.double()
    if weight.layout == fp8.LAYOUT:
        return fp8.dense(weight).double()
    if weight.layout == fp8_blocks.LAYOUT:
        return fp8_blocks.dense(weight, torch.float64)
    if weight.layout == lossless.LAYOUT:
        return lossless.dense(weight).double()
    return int4.dense(weight, torch.float64)


def with_exceptions(weight_ND: Tensor) -> Tensor:
    """Numbers that 12 bits do not hold, in the first and the last column too, and an output without any other."""
    weight_ND[0, 0], weight_ND[-1, -1], weight_ND[1, 9], weight_ND[-2, 7] = 64.0, -1e-9, 0.0, 3e-7
    weight_ND[2] = 0.0
    return weight_ND


@pytest.mark.parametrize("layout", ALL_PACKS)
@pytest.mark.parametrize(("outputs", "inputs"), [(2, 1), (62, 140), (256, 516)])
@pytest.mark.parametrize(("has_norm", "gated"), [(False, False), (True, True)])
def test_fused_linear(layout: str, outputs: int, inputs: int, has_norm: bool, gated: bool) -> None:
    dtype = torch.float32 if layout == "lossless" else torch.float16
    weight_ND = randn(outputs, inputs, dtype=dtype, scale=inputs**-0.5, seed=2)
    if layout == "lossless":
        weight_ND = weight_ND.bfloat16()
        if inputs > 9:
            weight_ND = with_exceptions(weight_ND)
    norm = Norm(randn(inputs, dtype=dtype, seed=4), 1e-5) if has_norm else None
    for tokens, rows, adds in ((1, 1, {False, True}), (1, 16, {False}), (19, 16, {True})):
        bias_N = randn(outputs, dtype=dtype, seed=6) if tokens == 19 or rows == 1 else None
        weight = ALL_PACKS[layout](weight_ND, bias_N)
        x_TD = randn(tokens, inputs, dtype=dtype)
        truth = x_TD.double()
        if norm is not None:
            truth = truth / (truth.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight_D.double()
        truth = truth @ numbers(weight).T + (0 if bias_N is None else bias_N.double())
        if gated:
            gate, up = truth.chunk(2, -1)
            truth = gate / (1 + (-gate).exp()) * up
        for residual in (randn(*truth.shape, dtype=dtype, seed=5) if added else None for added in adds):
            tactic = FusedTactic(64, rows, 128, 4, 2)
            y_TN = fused_linear(strided(x_TD), weight, Extras(norm, gated, residual), tactic, CHIP, dtype)
            assert_near(y_TN, truth if residual is None else truth + residual.double(), dtype)


# Outputs, rows, inputs at a time, warps, stages, programs, rows first: whole tiles, tiles cut in several ways, and both
# operands of either kind.
CHAINED = [
    (1, ChainedTactic(128, 16, 128, 4, 2, 0)),
    (19, ChainedTactic(128, 16, 128, 4, 2, 1)),
    (19, ChainedTactic(128, 16, 128, 4, 2, 2, rows_first=True)),
]
# Half a group, which nothing that quantises may own; scales of sums but with gates, and of weights.
CHAINED_IN_4_BITS = [(19, ChainedTactic(64, 32, 64, 4, 2, 2)), (40, ChainedTactic(64, 64, 64, 4, 2, 1))]


def places(rows: PreparedRows, weight: LinearWeight, residual_TN: Tensor, norm: Norm) -> Iterator[tuple[Place, Tensor]]:
    """Every place of a product, and what it gives there; who asks for the next one has written over the residual."""
    wide = rows.dense().double() @ numbers(weight).T + weight.bias_N.double()
    gate, up = wide.chunk(2, -1)
    total = wide + residual_TN.double()
    normed = total.to(rows.dtype).double()
    normed = normed / (normed.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight_D.double()
    yield Place(), wide
    yield Place(gated=True), gate / (1 + (-gate).exp()) * up
    yield Place(residual_TN=residual_TN, norm=norm), normed
    assert_near(residual_TN, total, rows.dtype)


@pytest.mark.parametrize(
    ("layout", "tokens", "tactic"),
    [(layout, *how) for layout in ("fp8-blocks", "int4-g32", "int4-g128") for how in CHAINED]
    + [(layout, *how) for layout in ("int4-g32", "int4-g128") for how in CHAINED_IN_4_BITS],
)
@pytest.mark.parametrize("has_norm", [False, True])
def test_chained_linear(layout: str, tokens: int, tactic: ChainedTactic, has_norm: bool) -> None:
    """What would be rounded to 8 bits stays as it is here, as in other tests of what is quantised."""
    quantises, dtype, (outputs, inputs) = layout == "fp8-blocks", torch.float16, (512, 1024)
    norms = [Norm(randn(width, dtype=dtype, seed=4), 1e-5) for width in (inputs, outputs)]
    truth = ReferenceChainedLinear(quantises=quantises)
    rows = truth.prepare(randn(tokens, inputs, dtype=dtype, scale=3.0), norms[0] if has_norm else None)
    squares_GT = rows.squares_GT  # as if of several groups, though the first has all of them
    if squares_GT is not None:
        squares_GT = torch.cat([squares_GT, torch.zeros(inputs // 128 + 2, tokens), squares_GT]) / 2
    rows = PreparedRows(rows.values_TD, rows.scales_GT, squares_GT, rows.eps, dtype)
    weight_ND = randn(outputs, inputs, dtype=dtype, scale=inputs**-0.5, seed=2)
    weight = PACKS[layout](weight_ND, randn(outputs, dtype=dtype, seed=3))
    arrivals = torch.zeros(64, dtype=torch.int32)
    residual_TN = randn(tokens, outputs, dtype=dtype, seed=5)
    for place, expected in places(rows, weight, residual_TN, norms[1]):
        out = room(place, expected.shape, tactic.outputs, quantises=quantises)
        chained_linear(rows, weight, place, out, Launch(tactic, CHIP, arrivals))
        assert not arrivals.any()
        assert_near(out.dense().to(dtype), expected, dtype)
        if out.scales_GT is not None:
            torch.testing.assert_close(
                out.values_TD.unflatten(1, (-1, 128)).abs().amax(2), torch.full_like(out.scales_GT.t(), 448.0)
            )


# Of one row or two: full steps, one that is not, more on their way than there are, and a row that is not there. Of
# more: one warp and several, and fewer than were asked for.
DIAGONAL = [
    (tokens, ChainedTactic(*how))
    for tokens, how in (
        (1, (4, 1, 256, 1, 1, 0)),
        (1, (8, 1, 256, 2, 2, 0)),
        (1, (16, 1, 256, 4, 4, 0)),
        (1, (8, 2, 256, 2, 1, 0)),
        (2, (4, 2, 256, 4, 2, 0)),
        (2, (16, 2, 256, 4, 4, 0)),
    )
]
IN_REGISTERS = [
    (tokens, ChainedTactic(outputs, 8 if tokens <= 8 else 16, inputs, warps, 1, 0))
    for tokens, outputs, inputs, warps in (
        (1, 16, 64, 1),
        (1, 16, 128, 4),
        (3, 32, 32, 4),
        (8, 16, 32, 8),
        (13, 16, 64, 2),
    )
]


@pytest.mark.parametrize(("tokens", "tactic"), [*DIAGONAL, *IN_REGISTERS])
@pytest.mark.parametrize(("group", "has_norm", "inputs"), [(32, False, 1536), (128, False, 1536), (128, True, 2048)])
def test_chained_linear_of_few_rows(
    group: int, tokens: int, tactic: ChainedTactic, has_norm: bool, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_TD = randn(tokens, inputs, dtype=torch.float16, scale=3.0)
    check_chained(Int4(group).pack, x_TD, tactic, has_norm, monkeypatch)


@pytest.mark.parametrize(("tokens", "tactic"), DIAGONAL)
@pytest.mark.parametrize(("scale", "has_norm", "inputs"), [(1e-6, False, 1536), (3.0, False, 1536), (1e6, True, 2048)])
def test_chained_linear_of_few_rows_and_8_bit_floats(
    tokens: int, tactic: ChainedTactic, has_norm: bool, inputs: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of numbers that float16 does not have, too, beside numbers that are much smaller, or 0, in one row or another."""
    x_TD = randn(tokens, inputs, dtype=torch.bfloat16, scale=scale) * 100.0 ** -torch.arange(tokens)[:, None]
    x_TD = x_TD.bfloat16()
    x_TD[:, ::3] /= 1000
    x_TD[:, 512:640] = 0
    check_chained(fp8.pack, x_TD, tactic, has_norm, monkeypatch)


def check_chained(
    pack: Pack, x_TD: Tensor, tactic: ChainedTactic, has_norm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel in Gluon in all places of a layer, with rows that were prepared by as many programs as there may be."""
    interpret_gluon(monkeypatch)
    (tokens, inputs), dtype, outputs = x_TD.shape, x_TD.dtype, 256
    run = TritonChainedLinear(CPU, CHIP, Tactics.on(CHIP), quantises=False)
    norms = [Norm(randn(width, dtype=dtype, seed=4), 1e-5) for width in (inputs, outputs)]
    rows = ReferenceChainedLinear(quantises=False).prepare(x_TD, norms[0] if has_norm else None)
    if rows.squares_GT is not None:  # as if of several groups
        squares_GT = torch.cat([rows.squares_GT / 4, torch.zeros(7, tokens), rows.squares_GT * 0.75])
        rows = replace(rows, squares_GT=squares_GT)
    weight_ND = randn(outputs, inputs, dtype=dtype, scale=inputs**-0.5, seed=2)
    weight = pack(weight_ND, randn(outputs, dtype=dtype, seed=3))
    residual_TN = randn(tokens, outputs, dtype=dtype, seed=5)
    for place, expected in places(rows, weight, residual_TN, norms[1]):
        out = run.room(tokens, weight, place, dtype, tactic)
        implementation(tactic)(rows, weight, place, out, Launch(tactic, CHIP, run.arrivals))
        assert_near(out.dense().to(dtype), expected, dtype)


def interpret_gluon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is written in Gluon interpreted, too."""
    monkeypatch.setattr(registers, "registers_kernel", interpreted(registers.registers_kernel))
    monkeypatch.setattr(diagonal, "diagonal_kernel", interpreted(diagonal.diagonal_kernel))


@pytest.mark.parametrize("counts", [(2, 21), (2, 3), (2,), (1,)], ids=["tiles", "registers", "two", "one"])
def test_layers_of_chained_products(counts: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 4-bit weights in float32, where nothing is rounded between its products."""
    interpret_gluon(monkeypatch)
    shape = TinyModel(heads=2, kv_heads=1, head_dim=128, hidden=256, ffn=256, layers=2)
    form = Int4(32)
    ops = replace(choose_ops(CPU, torch.float32, "reference"), pack=form.pack, linear=form.linear, logits=form.product)
    plain = load_model(make_tiny_model(tmp_path, shape), ModelConfig(dtype="float32"), "cpu", ops)
    run = TritonChainedLinear(CPU, CHIP, Tactics.on(CHIP), quantises=False, steps=range(1, 65))
    assert all(layer.fits(run) for layer in plain.layers)
    prompts = [random_prompt(shape.vocab, count, seed=count) for count in counts]
    answers = []
    for model in (plain, replace(plain, chained=run)):
        paged, sequences = PagedModel(model, block_tokens=8), [Sequence(list(prompt)) for prompt in prompts]
        answers.append(torch.cat(paged.step([(sequence, len(sequence.tokens)) for sequence in sequences])))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_layers_of_chained_8_bit_floats(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of a row or two of bfloat16, as near to the truth in float32 as the reference in bfloat16 is."""
    interpret_gluon(monkeypatch)
    shape = TinyModel(heads=2, kv_heads=1, head_dim=128, hidden=256, ffn=256, layers=2)
    directory = make_tiny_model(tmp_path, shape)
    run = TritonChainedLinear(CPU, CHIP, Tactics.on(CHIP), quantises=False, steps=range(1, 3))
    truth = ReferenceChainedLinear(quantises=False)
    answers = []
    for dtype, chained in ((torch.float32, truth), (torch.bfloat16, truth), (torch.bfloat16, run)):
        ops = replace(choose_ops(CPU, dtype, "reference"), pack=fp8.pack, linear=fp8.linear, logits=of_dense)
        model = load_model(directory, ModelConfig(dtype=str(dtype).removeprefix("torch.")), "cpu", ops)
        assert all(layer.fits(run) for layer in model.layers)
        paged = PagedModel(replace(model, chained=chained), block_tokens=8)
        sequences = [Sequence([token]) for token in (7, 11)[:count]]
        first = paged.step([(sequence, 1) for sequence in sequences])
        for sequence in sequences:
            sequence.tokens.append(3)
        answers.append(torch.cat([*first, *paged.step([(sequence, 1) for sequence in sequences])]))
    of_reference, of_run = ((answer - answers[0]).norm() for answer in answers[1:])
    assert 0 < of_run < 1.5 * of_reference


def of_dense(x_RD: Tensor, weight: LinearWeight) -> Tensor:
    """logits_RV of rows that are not quantised."""
    return x_RD.float() @ fp8.dense(weight).T


def room(place: Place, shape: torch.Size, owned: int, *, quantises: bool) -> PreparedRows:
    """For what comes out, in float32 where it would be quantised. `owned`: outputs of a program."""
    scaled = quantises and place != Place()
    tokens, outputs = shape
    return PreparedRows(
        torch.full(shape, NAN, dtype=torch.float32 if scaled else torch.float16),
        torch.full((outputs // 128, tokens), NAN) if scaled else None,
        torch.full((outputs // owned, tokens), NAN) if place.norm else None,
        1e-5,
        torch.float16,
    )


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_prepare(tokens: int, has_norm: bool) -> None:
    """Rows of 8-bit numbers already, with another power of two for each 128 columns: nothing is rounded."""
    values_TD = randn(tokens, 640, dtype=torch.float32, scale=50.0).to(FP8).float()
    values_TD[:, ::128] = 448.0
    x_TD = (values_TD * 2.0 ** -(torch.arange(640) // 128 + 3)).half()
    norm = Norm(torch.full((640,), 2.0, dtype=torch.float16), 1e-5) if has_norm else None
    for quantises in (False, True):
        runs = (
            TritonChainedLinear(CPU, CHIP, Tactics.on(CHIP), quantises=quantises),
            ReferenceChainedLinear(quantises=quantises),
        )
        actual, truth = (run.prepare(x_TD, norm) for run in runs)
        assert torch.equal(actual.values_TD.float(), truth.values_TD.float())
        assert (actual.scales_GT is None) == (not quantises)
        torch.testing.assert_close(actual.dense(), truth.dense(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("tokens", [0, 1, 35])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (130, 300)])
def test_product_of_blocks(tokens: int, outputs: int, inputs: int) -> None:
    """Rows of 8-bit numbers already, with another power of two for each 128 columns: nothing is rounded."""
    values_TD = randn(tokens, inputs, dtype=torch.float32, scale=50.0).to(FP8).float()
    values_TD[:, ::128] = 448.0
    powers_T = 2.0 ** -torch.arange(tokens).unsqueeze(1) / 8
    x_TD = values_TD * powers_T * 2.0 ** (torch.arange(inputs) // 128)
    bias_N, residual_TN = randn(outputs, dtype=torch.float32), randn(tokens, outputs, dtype=torch.float32, seed=3)
    weight = fp8_blocks.pack(randn(outputs, inputs, dtype=torch.float32, scale=inputs**-0.5, seed=2), bias_N)
    quantised_TD, scales_KT = blocks.quantise_groups(strided(x_TD), CHIP)
    assert torch.equal(fp8_blocks.spread(quantised_TD, scales_KT.t(), 1, 128), x_TD)
    truth = x_TD.double() @ fp8_blocks.dense(weight, torch.float64).T + bias_N.double() + residual_TN.double()
    y_TN = blocks.blocks_product(x_TD, weight, residual_TN, torch.float32, CHIP)
    assert_near(y_TN, truth, torch.float32)


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (19, 300), (16, 1024)])
def test_widen(group: int, outputs: int, inputs: int) -> None:
    weight = Int4(group).pack(randn(outputs, inputs, dtype=torch.float32), None)
    assert torch.equal(blocks.widen(weight, torch.float32, CHIP), int4.dense(weight, torch.float32))


@pytest.mark.parametrize(("outputs", "inputs"), [(19, 300), (16, 1024), (33, 2056)])
def test_restore(outputs: int, inputs: int) -> None:
    weight_ND = with_exceptions(randn(outputs, inputs, dtype=torch.bfloat16))
    weight = lossless.pack(weight_ND, None)
    assert weight.layout == lossless.LAYOUT
    assert torch.equal(blocks.restore(weight, CHIP).view(torch.int16), weight_ND.view(torch.int16))


@dtypes
@pytest.mark.parametrize(("tokens", "inputs"), [(0, 3), (1, 1), (5, 130)])
def test_quantise(dtype: torch.dtype, tokens: int, inputs: int) -> None:
    # Each row is 8-bit numbers times a power of two, up to 448 of it: nothing is rounded.
    values_TD = randn(tokens, inputs, dtype=torch.float32, scale=50.0).to(FP8).float()
    values_TD[:, :1] = 448.0
    x_TD = (values_TD * 2.0 ** -torch.arange(tokens).unsqueeze(1)).to(dtype)
    for x in (x_TD, strided(x_TD)):
        rows = linear.quantise(x, CHIP)
        assert torch.equal(rows.values_TD.float(), values_TD)
        assert torch.equal(rows.dense(), x_TD.float())
    empty = linear.quantise(torch.zeros_like(x_TD), CHIP)
    assert not empty.dense().any()


@pytest.mark.parametrize("count", [1, 256, 700, 20_000])
def test_host_copy(count: int) -> None:
    """Every word of the row whose turn it is, and none beyond them."""
    ring_UW, into_W = torch.arange(1, 3 * count + 1).view(3, count), torch.zeros(count + 100, dtype=torch.int64)
    turn_1 = torch.ones(1, dtype=torch.int32)
    for turn in (1, 2, 0, 1):
        assert turn_1.item() == turn
        TritonHostCopy(CHIP)(ring_UW, turn_1, into_W[:count])
        assert torch.equal(into_W[:count], ring_UW[turn])
        assert not into_W[count:].any()


@pytest.mark.parametrize(("rows", "tokens"), [(3, 12), (5, 20)])
def test_step_inputs(rows: int, tokens: int) -> None:
    """Rows of 7, 1 and 2 tokens, and rows and tokens to fill up, compared with the reference.

    There are new blocks of two rows, of which one is read, and of a slot that has no row.
    """
    generator = torch.Generator().manual_seed(0)
    tokens_SP = torch.randint(0, 99, (6, 70), generator=generator, dtype=torch.int32)
    blocks_SM = torch.randint(0, 50, (6, 18), generator=generator, dtype=torch.int32)
    counts = torch.tensor([7, 1, 2, 0, 0][:rows], dtype=torch.int32)
    starts_R1 = torch.cat([torch.zeros(1, dtype=torch.int32), counts.cumsum(0, dtype=torch.int32)])
    columns = RowColumns(
        torch.tensor([4, 0, 5, 0, 0][:rows], dtype=torch.int32),
        torch.tensor([33, 60, 0, 0, 0][:rows], dtype=torch.int32), starts_R1, torch.tensor([4], dtype=torch.int32),
        torch.tensor([4 * 18 + 9, 5 * 18, 4 * 18 + 17, 2 * 18 + 3, 0]), torch.arange(70, 75, dtype=torch.int32),
    )  # fmt: skip
    found = []
    for run in (TritonStepInputs(CHIP), step_inputs_reference.step_inputs):
        tables = SlotTables(tokens_SP, blocks_SM.clone(), 4, 200)
        index = {
            name: torch.full((tokens,), -7, dtype=torch.int32 if name != "write_T" else torch.int64)
            for name in ("ids", "positions_T", "write_T")
        }
        table_RM = torch.full((rows, 18), -7, dtype=torch.int32)
        contexts_R = torch.full((rows,), -7, dtype=torch.int32)
        into = StepTensors(
            index["ids"], Rows(index["positions_T"], index["write_T"], starts_R1, contexts_R, table_RM, 7, 40)
        )
        run(columns, tables, into)
        found.append([*index.values(), table_RM, contexts_R, tables.blocks_SM])
    for actual, truth in zip(*found, strict=True):
        assert torch.equal(actual, truth)
    assert found[1][2][-1] == 200


def check_draw(logits_NV: Tensor, rows: SampleRows) -> None:
    """Tokens equal the reference's, and are stored where they were asked for, and nothing else is."""
    count, vocab = logits_NV.shape
    slots_N = (torch.arange(count, dtype=torch.int32) * 5) % (count + 1)
    positions_N = torch.arange(count, dtype=torch.int32) % 8
    columns = DrawColumns(
        torch.tensor([count], dtype=torch.int32), torch.tensor([2], dtype=torch.int32), slots_N, positions_N,
        torch.from_numpy(rows.temperature_R).float(), torch.from_numpy(rows.top_k_R).int(),
        torch.from_numpy(rows.top_p_R).float(), torch.from_numpy(rows.min_p_R).float(),
        torch.from_numpy(rows.uniforms_R),
    )  # fmt: skip
    tokens_SP, drawn_N = torch.full((count + 1, 8), -7, dtype=torch.int32), torch.full((count + 2,), -9)
    padded_NV = torch.cat([logits_NV, torch.full((2, vocab), NAN)])  # rows that are not drawn
    told_UN = torch.full((3, count + 3), -9)
    TritonDraw(CHIP)(padded_NV, columns, tokens_SP, drawn_N, told_UN)
    expected = sample_reference.sample(logits_NV, rows)
    assert drawn_N.tolist() == [*expected.tolist(), -9, -9]
    assert told_UN.tolist() == [[-9] * (count + 3)] * 2 + [[*expected.tolist(), -9, -9, -9]]
    assert torch.equal(tokens_SP[slots_N.long(), positions_N.long()], expected.clamp(min=0).int())
    assert int((tokens_SP != -7).sum()) == count


def sample_rows(*rows: tuple[float, int, float, float, float]) -> SampleRows:
    """From (temperature, top_k, top_p, min_p, uniform) of each."""
    temperature, top_k, top_p, min_p, uniforms = (np.array(column) for column in zip(*rows, strict=True))
    return SampleRows(temperature * 1.0, top_k.astype(np.int64), top_p * 1.0, min_p * 1.0, uniforms * 1.0)


def test_draw_of_greedy_and_failing_rows() -> None:
    logits_NV = randn(6, 5000, dtype=torch.float32)
    logits_NV[0, [4999, 4100]] = 9.0
    logits_NV[1, 7] = NAN
    logits_NV[2] = -torch.inf
    logits_NV[3, 3] = torch.inf
    logits_NV[4, :-1] = -torch.inf
    check_draw(logits_NV, sample_rows(*[(0, 0, 1, 0, 0)] * 6))
    check_draw(logits_NV, sample_rows(*[(0.7, 3, 0.9, 0.1, 0.5)] * 6))


@pytest.mark.parametrize("uniform", [0.0, 0.43, 1 - 2.0**-53])
def test_draw_with_filters(uniform: float) -> None:
    settings = [(1, 0, 1, 0), (0.6, 0, 1, 0), (1, 5, 1, 0), (1.3, 0, 0.8, 0), (1, 0, 1, 0.2), (0.9, 20, 0.7, 0.01)]
    settings += [(1, 1, 1, 0), (1, 6000, 0.9, 0), (2, 0, 1e-9, 0), (1, 0, 1, 1)]
    logits_NV = randn(len(settings), 5000, dtype=torch.float32, scale=3.0)
    logits_NV[:, 100:200] = -torch.inf
    logits_NV[2, :7] = 12.0  # equal ones at the edge stay together
    check_draw(logits_NV, sample_rows(*[(*row, uniform) for row in settings]))


def test_fused_tactics_that_a_compiler_refuses_are_replaced() -> None:
    tall, single = FusedTactic(128, 16, 128, 8, 3), FusedTactic(4, 1, 2048, 8, 1)
    hopper, blackwell = Chip.like((9, 0), 132), Chip.like((10, 0), 148)
    assert launched(tall, blackwell, reference.LAYOUT, normed=True, gated=True).outputs == 32
    assert launched(tall, hopper, reference.LAYOUT, normed=True, gated=True) == tall
    assert launched(single, blackwell, reference.LAYOUT, normed=True, gated=True) == single
    assert launched(tall, blackwell, reference.LAYOUT, normed=True, gated=False) == tall
    assert launched(tall, blackwell, fp8_blocks.LAYOUT, normed=True, gated=True) == tall
