"""linear: against float64 at odd sizes, and bit by bit across batches and threads."""

import itertools

import numpy as np
import pytest
import torch

from tradewind.kernels import native
from tradewind.kernels.linear.cpu import NativeLinear
from tradewind.kernels.linear.lossless_cpu import NativeLossless

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The one rounding of the result, relative to it; the sums in float32 come on top.
ROUNDING = {torch.float32: 2**-23, torch.bfloat16: 2**-8, torch.float16: 2**-11}
SUMS = 1e-6  # relative to the largest result


def check(y: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    assert y.isfinite().all()
    error = (y.double() - truth).abs()
    excess = error - ROUNDING[dtype] * truth.abs() - SUMS * truth.abs().max()
    assert excess.max() <= 0, (error.max(), excess.max())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (31, 7), (32, 64), (33, 130), (70, 65), (200, 333)])
def test_against_float64(library: native.Library, dtype: torch.dtype, n: int, k: int) -> None:
    ops = NativeLinear(library)
    weight = torch.randn(n, k).to(dtype)
    bias = torch.randn(n).to(dtype)
    with_bias, plain = ops.pack(weight, bias), ops.pack(weight, None)
    for rows in (0, 1, 2, 3, 5, 11, 12, 13, 25, 70):
        x = torch.randn(rows, k + 3).to(dtype)[:, :k]  # strided rows
        residual = torch.randn(rows, n).to(dtype)
        product = x.double() @ weight.double().T
        if rows == 0:
            assert ops.linear(x, plain).shape == (0, n)
            continue
        check(ops.linear(x, plain), product, dtype)
        check(ops.linear(x, with_bias, residual.clone()), product + bias.double() + residual.double(), dtype)
        logits = ops.logits(x, plain)
        check(logits, product, torch.float32)
        memory = torch.full((rows, n), float("nan"))
        ops.fill_logits(x, plain, memory)
        assert torch.equal(memory, logits)


def test_garbage_beside_the_rows_changes_nothing(library: native.Library) -> None:
    ops = NativeLinear(library)
    weight = torch.randn(40, 37).to(torch.bfloat16)
    wide = torch.full((9, 64), float("nan"), dtype=torch.bfloat16)
    wide[:, :37] = torch.randn(9, 37)
    packed = ops.pack(weight, None)
    x = wide[:, :37]
    assert torch.equal(ops.linear(x, packed), ops.linear(x.clone(memory_format=torch.contiguous_format), packed))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_is_the_same_whatever_the_batch_and_the_threads(library: native.Library, dtype: torch.dtype) -> None:
    ops = NativeLinear(library)
    packed = ops.pack(torch.randn(150, 259).to(dtype), torch.randn(150).to(dtype))
    x = torch.randn(1200, 259).to(dtype)
    together = ops.linear(x, packed)
    for first, rows in [(0, 1), (1199, 1), (3, 2), (100, 5), (7, 12), (50, 13), (0, 31), (1000, 200), (1, 1199)]:
        assert torch.equal(ops.linear(x[first : first + rows], packed), together[first : first + rows]), (first, rows)
    torch.set_num_threads(1)
    assert torch.equal(ops.linear(x, packed), together)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_masked_logits_are_the_allowed_ones_of_all(library: native.Library, dtype: torch.dtype, share: float) -> None:
    """To the bit, whether panels are left out or not; the others are -inf, whatever was in the memory."""
    kinds = [NativeLinear, NativeLossless] if dtype == torch.bfloat16 else [NativeLinear]
    for kind, (n, k) in itertools.product(kinds, [(1, 1), (33, 130), (200, 65), (1000, 64)]):
        ops = kind(library)
        weight = ops.pack(torch.randn(n, k).to(dtype), torch.randn(n).to(dtype))
        for rows in (1, 2, 3, 8, 33):
            x = torch.randn(rows, k + 3).to(dtype)[:, :k]  # strided rows
            allowed = torch.rand(rows, -(-n // 32) * 32 + 32) < share  # with a word beyond the vocabulary
            if share < 1:
                allowed[rows // 2] = True
            bits = np.packbits(allowed.numpy(), axis=1, bitorder="little").view(np.int32)
            memory = torch.full((rows, n), float("nan"))
            ops.masked_logits(x, weight, torch.from_numpy(bits), memory)
            assert torch.equal(memory, ops.logits(x, weight).masked_fill(~allowed[:, :n], -torch.inf))


def test_the_embedding_is_what_was_packed(library: native.Library) -> None:
    ops = NativeLinear(library)
    for dtype in DTYPES:
        weight = torch.randn(100, 33).to(dtype)
        ids = torch.tensor([0, 99, 31, 32, 31])
        assert torch.equal(ops.embedding(ids, ops.pack(weight, None)), weight[ids])
        assert torch.equal(ops.embedding(ids.int(), ops.pack(weight, None)), weight[ids])


def test_one_openmp_runtime(best: native.Library) -> None:
    """The kernels run on the thread pool that torch has, not on one of their own."""
    NativeLinear(best).pack(torch.randn(64, 64), None)
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "omp" in line.rsplit("/", 1)[-1]}
    assert len({path for path in paths if path.endswith((".so", ".1", ".5"))}) == 1, paths
