"""8-bit KV pages: written as the reference writes them, and attention over them against float64 and bit by bit."""

import pytest
import torch

from tests.cpu.native.test_native_attention import Case, make_case, rows_of, run, truth
from tradewind.kernels import native
from tradewind.kernels.int8_pages import SCALE_BYTES, dequantise, quantise
from tradewind.kernels.paged_attention import reference, torch_sdpa
from tradewind.kernels.qk_norm_rope_write import reference as rope_reference
from tradewind.kernels.qk_norm_rope_write.cpu import NativeQkNormRopeWrite
from tradewind.kernels.rows import HeadShape, Rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# One rounding of the result; queries and weights are kept with 14 bits.
TOLERANCE = {torch.float32: 5e-4, torch.bfloat16: 5e-3, torch.float16: 1e-3}


def as_bytes(case: Case) -> Case:
    """The same case over 8-bit pages. Places that no row owns keep a scale of NaN."""
    k_pages, v_pages = (quantise(pages) for pages in (case.k_pages_BGSK, case.v_pages_BGSK))
    return Case(case.q_THK, k_pages, v_pages, case.rows)


def test_what_rounding_to_8_bits_loses() -> None:
    x = torch.randn(50, 3, 64)
    x[7] = 0
    rows = quantise(x)
    assert rows.shape == (50, 3, 64 + SCALE_BYTES)
    error = (dequantise(rows) - x).abs().amax(-1)
    assert (error <= x.abs().amax(-1) / 127 * 0.501).all()
    x[3, 1, 5] = torch.inf
    assert dequantise(quantise(x))[3, 1].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_tokens"),
    [(1, 1, 8, 1), (4, 2, 18, 16), (14, 2, 80, 5), (8, 1, 256, 32)],
)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (70, 5.0)])
def test_attention_against_float64(
    library: native.Library,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    block_tokens: int,
    window: int | None,
    softcap: float | None,
) -> None:
    shapes = [(1, 1), (64, 1), (65, 1), (33, 33), (130, 7), (200, 70), (17, 2)]
    case = as_bytes(make_case(shapes, heads, kv_heads, head_dim, block_tokens, dtype))
    scale = head_dim**-0.5 * 1.5
    out = run(library, case, scale, window, softcap)
    exact = Case(case.q_THK, dequantise(case.k_pages_BGSK), dequantise(case.v_pages_BGSK), case.rows)
    expected = truth(exact, scale, window, softcap)
    assert out.isfinite().all()
    assert (out.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("window", [None, 1500])
def test_a_token_is_the_same_however_chunked_and_batched(library: native.Library, window: int | None) -> None:
    context = 2300  # several splits
    case = as_bytes(make_case([(context, context), (40, 40)], 4, 2, 32, 16, torch.bfloat16))
    whole = run(library, case, 0.2, window, None)
    for start, stop in [(0, 1), (context - 1, context), (context - 50, context), (3, 40), (600, 657), (0, 200)]:
        rows = rows_of([stop, 17], [stop - start, 1], case.rows.block_tables_RM)
        q = torch.cat([case.q_THK[start:stop], case.q_THK[context + 16 : context + 17]])
        part = run(library, Case(q, case.k_pages_BGSK, case.v_pages_BGSK, rows), 0.2, window, None)
        assert torch.equal(part[:-1], whole[start:stop]), (start, stop)
        assert torch.equal(part[-1], whole[context + 16])
    torch.set_num_threads(1)
    assert torch.equal(run(library, case, 0.2, window, None), whole)


def test_torch_reads_them_too(best: native.Library) -> None:
    case = as_bytes(make_case([(70, 1), (33, 33), (90, 5)], 4, 2, 32, 16, torch.float32))
    out = torch_sdpa.paged_attention(case.q_THK, case.k_pages_BGSK, case.v_pages_BGSK, case.rows, 0.2)
    torch.testing.assert_close(out, run(best, case, 0.2, None, None), atol=5e-4, rtol=0)


def test_what_is_not_finite_stays_in_its_row(best: native.Library) -> None:
    case = as_bytes(make_case([(70, 1), (70, 1)], 2, 1, 64, 16, torch.bfloat16))
    clean = run(best, case, 1.0, None, None)
    case.q_THK[0, 0] = torch.inf
    spoiled = quantise(torch.full((64,), torch.nan))
    case.v_pages_BGSK[case.rows.block_tables_RM[1, 0], 0, 3] = spoiled
    out = run(best, case, 1.0, None, None)
    assert out[0, 0].isnan().all()
    assert torch.equal(out[0, 1], clean[0, 1])
    assert out[1].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(1, 1, 2), (14, 2, 34), (16, 8, 128)])
def test_writing(library: native.Library, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> None:
    shape = HeadShape(heads, kv_heads, head_dim)
    tokens, block_tokens = 21, 4
    qkv = torch.randn(tokens, shape.qkv_features).to(dtype)
    qkv[3] = 0
    mine, theirs = (
        torch.full((9, 2, 2, kv_heads, block_tokens, head_dim + SCALE_BYTES), 255, dtype=torch.uint8) for _ in range(2)
    )
    angles = torch.rand(64, head_dim // 2) * 6
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
    norms = [torch.randn(head_dim).to(dtype) for _ in range(2)]
    empty = torch.empty(0, dtype=torch.int32)
    rows = Rows(torch.randint(0, 64, (tokens,)), torch.randperm(36)[:tokens], empty, empty, empty, 0, 0)
    for write, pool in [(NativeQkNormRopeWrite(library), mine), (rope_reference.qk_norm_rope_write, theirs)]:
        write(qkv.clone(), rows, cos_sin, pool[:, 1, 0], pool[:, 1, 1], shape, *norms, 1e-6)
    assert (mine[:, 0] == 255).all()
    assert torch.equal((mine == 255).all(-1), (theirs == 255).all(-1))
    written = ~(theirs[:, 1] == 255).all(-1)
    assert written.sum() == tokens * 2 * kv_heads
    difference = dequantise(mine[:, 1][written]) - dequantise(theirs[:, 1][written])
    steps = theirs[:, 1][written][:, -SCALE_BYTES:].contiguous().view(torch.float32)
    # A number between two steps may go to either: its last bit depends on how the norm was summed.
    assert (difference.abs() <= 1.01 * steps).all()
    assert (difference.abs() > 0.01 * steps).float().mean() < 0.02


def test_the_reference_reads_what_it_writes() -> None:
    case = make_case([(9, 1)], 2, 1, 16, 4, torch.float32)
    exact = reference.paged_attention(case.q_THK, case.k_pages_BGSK, case.v_pages_BGSK, case.rows, 0.25)
    rounded = as_bytes(case)
    out = reference.paged_attention(rounded.q_THK, rounded.k_pages_BGSK, rounded.v_pages_BGSK, rounded.rows, 0.25)
    torch.testing.assert_close(out, exact, atol=0.03, rtol=0)
    assert not torch.equal(out, exact)
