"""paged_attention: against float64, and bit by bit across chunks, batches and threads."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tradewind.kernels import native
from tradewind.kernels.paged_attention import reference
from tradewind.kernels.paged_attention.cpu import NativePagedAttention
from tradewind.kernels.rows import Rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# bf16 weights of the values are rounded to bf16 too.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class Case:
    q_THK: Tensor
    k_pages_BGSK: Tensor
    v_pages_BGSK: Tensor
    rows: Rows


def make_case(
    shapes: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, block_tokens: int, dtype: torch.dtype
) -> Case:
    """Rows of (context, new tokens). Every place that no row owns is NaN, in the layout of a pool."""
    blocks = [-(-context // block_tokens) for context, _ in shapes]
    pool = torch.full((sum(blocks) + 3, 3, 2, kv_heads, block_tokens, head_dim), float("nan"), dtype=dtype)
    k_pages, v_pages = pool[:, 1, 0], pool[:, 1, 1]
    order = torch.randperm(sum(blocks) + 3)
    tables = torch.full((len(shapes), max(blocks) + 2), 10**6, dtype=torch.int32)
    taken = 0
    for row, (context, _) in enumerate(shapes):
        tables[row, : blocks[row]] = order[taken : taken + blocks[row]].int()
        taken += blocks[row]
        for position in range(context):
            block = tables[row, position // block_tokens]
            k_pages[block, :, position % block_tokens] = torch.randn(kv_heads, head_dim).to(dtype)
            v_pages[block, :, position % block_tokens] = torch.randn(kv_heads, head_dim).to(dtype)
    news = [new for _, new in shapes]
    q = torch.randn(sum(news), heads * head_dim + 5).to(dtype)[:, : heads * head_dim]
    rows = rows_of([context for context, _ in shapes], news, tables)
    return Case(q.view(-1, heads, head_dim), k_pages, v_pages, rows)


def rows_of(contexts: list[int], news: list[int], tables: Tensor) -> Rows:
    starts = torch.tensor([0, *torch.tensor(news, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)
    return Rows(
        positions_T=torch.empty(0, dtype=torch.int32),
        write_T=torch.empty(0, dtype=torch.int64),
        query_starts_R1=starts,
        context_lens_R=torch.tensor(contexts, dtype=torch.int32),
        block_tables_RM=tables,
        max_query=max(news, default=0),
        max_context=max(contexts, default=0),
    )


def truth(case: Case, scale: float, window: int | None, softcap: float | None) -> Tensor:
    double = (tensor.double() for tensor in (case.q_THK, case.k_pages_BGSK, case.v_pages_BGSK))
    return reference.paged_attention(*double, case.rows, scale, window, softcap)


def run(library: native.Library, case: Case, scale: float, window: int | None, softcap: float | None) -> Tensor:
    attend = NativePagedAttention(library)
    return attend(case.q_THK, case.k_pages_BGSK, case.v_pages_BGSK, case.rows, scale, window, softcap)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "block_tokens"),
    [(1, 1, 8, 1), (4, 2, 16, 16), (14, 2, 80, 5), (3, 3, 34, 16), (16, 8, 128, 16), (8, 1, 256, 32), (64, 1, 64, 7)],
)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (9, None), (None, 3.0), (70, 5.0)])
def test_against_float64(
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
    case = make_case(shapes, heads, kv_heads, head_dim, block_tokens, dtype)
    scale = head_dim**-0.5 * 1.5
    out = run(library, case, scale, window, softcap)
    expected = truth(case, scale, window, softcap)
    assert out.isfinite().all()
    assert (out.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 100, 1500])
def test_a_token_is_the_same_however_chunked_and_batched(
    library: native.Library, dtype: torch.dtype, window: int | None
) -> None:
    context = 2300 if window != 100 else 700  # several splits
    case = make_case([(context, context), (40, 40)], 4, 2, 32, 16, dtype)
    whole = run(library, case, 0.2, window, None)
    for start, stop in [(0, 1), (context - 1, context), (context - 50, context), (3, 40), (600, 657), (0, 200)]:
        rows = rows_of([stop, 17], [stop - start, 1], case.rows.block_tables_RM)
        q = torch.cat([case.q_THK[start:stop], case.q_THK[context + 16 : context + 17]])
        part = run(library, Case(q, case.k_pages_BGSK, case.v_pages_BGSK, rows), 0.2, window, None)
        assert torch.equal(part[:-1], whole[start:stop]), (start, stop)
        assert torch.equal(part[-1], whole[context + 16])
    torch.set_num_threads(1)
    assert torch.equal(run(library, case, 0.2, window, None), whole)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_long_context_is_split_between_threads(best: native.Library, threads: int) -> None:
    case = make_case([(5000, 1)], 2, 1, 64, 16, torch.bfloat16)
    torch.set_num_threads(1)
    alone = run(best, case, 0.125, None, None)
    torch.set_num_threads(threads)
    assert torch.equal(run(best, case, 0.125, None, None), alone)
    assert (alone.double() - truth(case, 0.125, None, None)).abs().max() < 1e-2


def test_no_rows(best: native.Library) -> None:
    case = make_case([(5, 1)], 2, 1, 64, 16, torch.bfloat16)
    rows = rows_of([], [], torch.empty((0, 4), dtype=torch.int32))
    empty = Case(case.q_THK[:0], case.k_pages_BGSK, case.v_pages_BGSK, rows)
    assert run(best, empty, 1.0, None, None).shape == (0, 2, 64)


def test_a_nan_stays_in_its_row(best: native.Library) -> None:
    case = make_case([(70, 1), (70, 1)], 2, 1, 64, 16, torch.bfloat16)
    clean = run(best, case, 1.0, None, None)
    case.q_THK[0] = float("nan")
    out = run(best, case, 1.0, None, None)
    assert out[0].isnan().all()
    assert torch.equal(out[1], clean[1])
