"""linear with bfloat16 weights in 12 bits: every result has the bits of the weight as it was."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tradewind.kernels import native
from tradewind.kernels.linear import cpu, lossless_cpu
from tradewind.kernels.linear.cpu import NativeLinear
from tradewind.kernels.linear.lossless_cpu import NativeLossless

ODD = [0, 1, 0x8000, 0x8001, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x7F7F, 0x0080, 0x0F34]
SAME_LIBRARY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32)


def drawn(n: int, k: int, seed: int, tail: float = 0.0) -> Tensor:
    """Normal numbers, each divided by a power of another one: the larger `tail`, the more of them are very large."""
    generator = torch.Generator().manual_seed(seed)
    top, bottom = (torch.randn((n, k), generator=generator) for _ in range(2))
    return (0.02 * top / bottom.abs() ** tail).bfloat16()


def same(y: Tensor, other: Tensor) -> bool:
    """Bit by bit; but which of several NaN a sum becomes is up to the compiler."""
    return bool(((bits(y) == bits(other)) | (y.isnan() & other.isnan())).all())


def check(library: native.Library, weight_ND: Tensor, counts: tuple[int, ...] = (1, 3, 12, 13, 40)) -> str:
    """That products and rows are those of the plain layout; gives the layout that was chosen."""
    n, k = weight_ND.shape
    bias_N = torch.randn(n).bfloat16()
    ours, plain = NativeLossless(library), NativeLinear(library)
    packed, as_it_was = ours.pack(weight_ND, bias_N), plain.pack(weight_ND, bias_N)
    assert packed.nbytes <= as_it_was.nbytes
    for ids_T in (torch.arange(n), torch.tensor([n - 1, 0], dtype=torch.int32)):
        assert torch.equal(bits(ours.embedding(ids_T, packed)), bits(weight_ND[ids_T.long()]))
    for rows in counts:
        x_TD = torch.randn(rows, k + 3).bfloat16()[:, :k]  # strided rows
        residual_TN = torch.randn(rows, n).bfloat16()
        y_TN = ours.linear(x_TD, packed, residual_TN.clone())
        assert same(y_TN, plain.linear(x_TD, as_it_was, residual_TN.clone()))
        logits_TN, memory_TN = ours.logits(x_TD, packed), torch.full((rows, n), float("nan"))
        assert same(logits_TN, plain.logits(x_TD, as_it_was))
        ours.fill_logits(x_TD, packed, memory_TN)
        assert same(memory_TN, logits_TN)
    assert ours.linear(x_TD[:0], packed).shape == (0, n)
    return packed.layout


@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 7), (64, 130), (70, 257), (200, 332), (96, 1031)])
def test_results_are_those_of_the_weight_as_it_was(library: native.Library, n: int, k: int) -> None:
    # What is kept for a whole panel pays with some inputs only.
    assert check(library, drawn(n, k, n)) == (lossless_cpu.LAYOUT if k > 64 else cpu.LAYOUT)


@SAME_LIBRARY
@given(
    words=st.lists(st.sampled_from(ODD), min_size=1, max_size=8), row=st.integers(0, 39), column=st.integers(0, 292),
    tail=st.sampled_from([0.0, 0.3]),
)  # fmt: skip
def test_numbers_that_are_not_normal(
    library: native.Library, words: list[int], row: int, column: int, tail: float
) -> None:
    """Zeros of both signs, the least and the largest numbers, infinities and NaN, wherever they are."""
    weight_ND = drawn(40, 301, 1, tail)
    bits(weight_ND)[row, column : column + len(words)] = torch.tensor(words).to(torch.int16)
    assert check(library, weight_ND, (1, 13)) == lossless_cpu.LAYOUT


def test_columns_of_zeros_and_of_exceptions(library: native.Library) -> None:
    weight_ND = drawn(70, 300, 2)
    weight_ND[5] = 0.0
    weight_ND[6] = torch.exp2(torch.arange(300) % 200 - 100.0)  # most of them lie outside, wherever one begins to count
    assert check(library, weight_ND) == lossless_cpu.LAYOUT


def test_a_weight_takes_12_bits(best: native.Library) -> None:
    packed = NativeLossless(best).pack(drawn(256, 4096, 0), None)
    assert packed.layout == lossless_cpu.LAYOUT
    assert 12 < packed.nbytes * 8 / (256 * 4096) < 12.05


def test_a_weight_that_would_not_be_smaller_stays_as_it_is(best: native.Library) -> None:
    weight_ND = drawn(64, 512, 3)
    bits(weight_ND)[:] = torch.randint(0, 0x7F80, (64, 512)).to(torch.int16)  # exponents of all kinds
    assert check(best, weight_ND) == cpu.LAYOUT


def test_threads_change_nothing(best: native.Library) -> None:
    ops, x_TD = NativeLossless(best), torch.randn(29, 515).bfloat16()
    packed = ops.pack(drawn(300, 515, 4, 0.3), None)
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(ops.linear(x_TD, packed))
    assert torch.equal(*found)
    assert all(torch.equal(ops.linear(x_TD[row : row + 1], packed), found[0][row : row + 1]) for row in range(29))
