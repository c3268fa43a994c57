"""Attention in one kernel: of one row, where the program that adds up waits for all others, and of some rows."""

import pytest
import torch
from torch import Tensor

from tradewind.bench.gpu_kernels import BLOCK, equal_rows
from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_attention.one_row import OneRow
from tradewind.kernels.fused_attention.some_rows import SomeRows
from tradewind.kernels.gpu import Chip
from tradewind.kernels.paged_attention.reference import paged_attention
from tradewind.kernels.qk_norm_rope_write.reference import qk_norm_rope_write
from tradewind.kernels.quantised_rows import FP8
from tradewind.kernels.rows import HeadShape, Rows

CUDA = torch.device("cuda", 0)
DTYPE = torch.bfloat16
PAGES = [DTYPE] + [FP8] * (torch.cuda.get_device_capability() >= (8, 9))


def inputs(
    shape: HeadShape, context: int, dtype: torch.dtype, count: int = 1
) -> tuple[Tensor, Rows, Tensor, LayerHeads]:
    """`count` rows, where they stand, keys and values before them, [B, 2, G, S, K], and what all layers have."""
    generator = torch.Generator(CUDA).manual_seed(context)
    blocks = -(-context // BLOCK)
    table_RM = torch.randperm(count * blocks, device=CUDA, generator=generator).int().view(count, blocks)
    size = (count * blocks, 2, shape.kv_heads, BLOCK, shape.head_dim)
    pages = torch.randn(size, device=CUDA, generator=generator).to(dtype)
    qkv_TC = torch.randn(count, shape.qkv_features, device=CUDA, generator=generator).to(DTYPE)
    cos_sin_PK = torch.randn(context, shape.head_dim, device=CUDA, generator=generator)
    return qkv_TC, equal_rows(table_RM, context, 1), pages, LayerHeads(shape, cos_sin_PK, None, None, 0.0, 0.1)


def assert_right(out_TC: Tensor, qkv_TC: Tensor, rows: Rows, pages: Tensor, heads: LayerHeads) -> None:
    """`pages`: with the token's own key and value."""
    wide, scratch = pages.float(), pages.float()
    norms = heads.q_norm_K, heads.k_norm_K, heads.eps
    q_THK = qk_norm_rope_write(
        qkv_TC.float(), rows, heads.cos_sin_PK, scratch[:, 0], scratch[:, 1], heads.shape, *norms
    )
    truth_TC = paged_attention(q_THK.to(DTYPE).float(), wide[:, 0], wide[:, 1], rows, heads.scale).flatten(1)
    assert float((out_TC.float() - truth_TC).norm() / truth_TC.norm()) < 1e-2


@pytest.mark.parametrize("dtype", PAGES)
@pytest.mark.parametrize("group", [1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("width", [32, 64, 128])
def test_groups_and_heads_of_any_size(group: int, width: int, dtype: torch.dtype) -> None:
    shape = HeadShape(8 * group, 8, width)
    run = OneRow(CUDA, Chip.of(CUDA), releases=True)
    for context in (1, 17, 129, 1500, 5000):
        qkv_TC, rows, pages, heads = inputs(shape, context, dtype)
        assert run.takes(rows, shape)
        assert_right(run(qkv_TC, rows, pages[:, 0], pages[:, 1], heads), qkv_TC, rows, pages, heads)


@pytest.mark.parametrize("dtype", PAGES)
@pytest.mark.parametrize(("group", "width"), [(1, 64), (3, 128), (4, 128), (16, 32), (16, 128), (2, 256)])
def test_some_rows_of_any_size(group: int, width: int, dtype: torch.dtype) -> None:
    shape, run = HeadShape(2 * group, 2, width), SomeRows(CUDA, Chip.of(CUDA))
    for count, context in ((2, 1), (2, 3000), (7, 129), (17, 900), (64, 500)):
        qkv_TC, rows, pages, heads = inputs(shape, context, dtype, count)
        assert run.takes(rows, shape)
        assert_right(run(qkv_TC, rows, pages[:, 0], pages[:, 1], heads), qkv_TC, rows, pages, heads)


@pytest.mark.parametrize("dtype", PAGES)
def test_what_is_not_a_number_ends_too_and_leaves_nothing_behind(dtype: torch.dtype) -> None:
    """In a query, in the token's own key or value, or in a value before it."""
    shape, context = HeadShape(32, 8, 128), 1500
    run = OneRow(CUDA, Chip.of(CUDA))
    qkv_TC, rows, pages, heads = inputs(shape, context, dtype)
    for broken in ("a query", "its key", "its value", "a value before"):
        spoilt_TC, spoilt_pages = qkv_TC.clone(), pages.clone()
        if broken == "a value before":
            spoilt_pages[int(rows.block_tables_RM[0, 3]), 1, 0] = torch.nan
        else:
            head = {"a query": 0, "its key": shape.heads, "its value": shape.heads + shape.kv_heads}[broken]
            spoilt_TC.view(-1, shape.head_dim)[head] = torch.nan
        out_HK = run(spoilt_TC, rows, spoilt_pages[:, 0], spoilt_pages[:, 1], heads).view(-1, shape.head_dim)
        assert bool(out_HK[shape.queries_per_kv :].isfinite().all())
        # A new key or value in 8 bits is brought into their range, whatever it is.
        assert bool(out_HK[0].isnan().any()) or (dtype == FP8 and broken != "a query")
        assert_right(run(qkv_TC, rows, pages[:, 0], pages[:, 1], heads), qkv_TC, rows, pages, heads)
