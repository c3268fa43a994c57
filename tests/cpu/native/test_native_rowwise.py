"""The ops between the products: against float64, in place and strided, and bit by bit across batches."""

import pytest
import torch

from tradewind.kernels import native
from tradewind.kernels.add_rms_norm import reference as norm_reference
from tradewind.kernels.add_rms_norm.cpu import NativeAddRmsNorm
from tradewind.kernels.embedding.cpu import NativeEmbedding
from tradewind.kernels.qk_norm_rope_write import reference as rope_reference
from tradewind.kernels.qk_norm_rope_write.cpu import NativeQkNormRopeWrite
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.kernels.silu_mul import reference as silu_reference
from tradewind.kernels.silu_mul.cpu import NativeSiluMul

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def close(result: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    assert result.isfinite().all()
    excess = (result.double() - truth.double()).abs() - ROUNDING[dtype] * truth.double().abs()
    assert excess.max() <= 1e-6 * truth.abs().max() + 1e-30, excess.max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 8, 37, 64, 1000])
def test_add_rms_norm(library: native.Library, dtype: torch.dtype, size: int) -> None:
    norm = NativeAddRmsNorm(library)
    weight = torch.randn(size).to(dtype)
    for rows in (1, 3, 70):
        x = torch.randn(rows, size + 3).to(dtype)[:, :size]
        residual = torch.randn(rows, size).to(dtype)
        expected = x + residual
        normed, total = norm(x.clone(), residual.clone(), weight, 1e-5)
        assert torch.equal(total, expected)
        close(normed, norm_reference.rms_norm(expected.double(), weight.double(), 1e-5), dtype)
        normed, total = norm(x, None, weight, 1e-5)
        assert torch.equal(total, x)
        close(normed, norm_reference.rms_norm(x.double(), weight.double(), 1e-5), dtype)
        alone, _ = norm(x[rows - 1 :], None, weight, 1e-5)
        assert torch.equal(alone[0], normed[-1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 5, 16, 333])
def test_silu_mul(library: native.Library, dtype: torch.dtype, size: int) -> None:
    silu_mul = NativeSiluMul(library)
    for rows in (0, 1, 50):
        gate_up = (torch.randn(rows, 2 * size) * 8).to(dtype)
        out = silu_mul(gate_up)
        assert out.shape == (rows, size)
        if rows:
            gate_up[0, 0] = -200
            close(silu_mul(gate_up), silu_reference.silu_mul(gate_up.double().float()).double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_embedding(library: native.Library, dtype: torch.dtype) -> None:
    embedding = NativeEmbedding(library)
    table = torch.randn(50, 13).to(dtype)
    ids = torch.tensor([49, 0, 7, 7])
    assert torch.equal(embedding(ids, table), table[ids])
    assert torch.equal(embedding(ids.int(), table), table[ids])
    assert embedding(ids[:0], table).shape == (0, 13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(1, 1, 2), (4, 2, 8), (14, 2, 80), (16, 8, 128)])
def test_qk_norm_rope_write(
    library: native.Library, dtype: torch.dtype, normed: bool, heads: int, kv_heads: int, head_dim: int
) -> None:
    shape = HeadShape(heads, kv_heads, head_dim)
    tokens, block_tokens = 21, 4
    qkv = torch.randn(tokens, shape.qkv_features).to(dtype)
    pool = torch.full((9, 2, 2, kv_heads, block_tokens, head_dim), float("nan"), dtype=dtype)
    theirs = pool.double()
    angles = torch.rand(64, head_dim // 2) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
    weights = [torch.randn(head_dim).to(dtype) if normed else None for _ in range(2)]
    for positions in (torch.randint(0, 64, (tokens,)), torch.randint(0, 64, (tokens,), dtype=torch.int32)):
        empty = torch.empty(0, dtype=torch.int32)
        rows = Rows(positions, torch.randperm(36)[:tokens], empty, empty, empty, 0, 0)
        mine = NativeQkNormRopeWrite(library)
        q = mine(qkv.clone(), rows, cos_sin, pool[:, 1, 0], pool[:, 1, 1], shape, *weights, 1e-6)
        wide = [None if weight is None else weight.double() for weight in weights]
        expected = rope_reference.qk_norm_rope_write(
            qkv.double(), rows, cos_sin, theirs[:, 1, 0], theirs[:, 1, 1], shape, *wide, 1e-6
        )
        close(q, expected, dtype)
        assert torch.equal(pool.isnan(), theirs.isnan())
        close(pool.nan_to_num(), theirs.nan_to_num(), dtype)
