"""bfloat16 weights in 12 bits: the same bits come back, whatever they are."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tradewind.kernels.linear import lossless, reference


def bits(weight_ND: Tensor) -> Tensor:
    return weight_ND.view(torch.int16)


def drawn(outputs: int, inputs: int, seed: int, tail: float) -> Tensor:
    """Normal numbers, each divided by a power of another one: the larger `tail`, the more of them are very large."""
    generator = torch.Generator().manual_seed(seed)
    top, bottom = (torch.randn((outputs, inputs), generator=generator) for _ in range(2))
    return (0.02 * top / bottom.abs() ** tail).bfloat16()


@given(
    outputs=st.integers(1, 40), inputs=st.integers(200, 1500), seed=st.integers(0, 9), tail=st.sampled_from([0, 0.3, 1])
)
def test_weights_come_back_to_the_bit(outputs: int, inputs: int, seed: int, tail: float) -> None:
    weight_ND = drawn(outputs, inputs, seed, tail)
    weight = lossless.pack(weight_ND.clone(), None)
    assert torch.equal(bits(lossless.dense(weight)), bits(weight_ND))
    assert (weight.out_features, weight.in_features) == (outputs, inputs)
    assert weight.nbytes <= weight_ND.nbytes


@given(
    st.lists(st.sampled_from([0, 1, 0x8000, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x7F7F, 0x0080]), min_size=1, max_size=8)
)
def test_numbers_that_are_not_normal_come_back(words: list[int]) -> None:
    """Zeros of both signs, the least and the largest numbers, infinities and NaN, first in a row and last."""
    weight_ND = drawn(4, 300, 1, 0)
    given_bits = torch.tensor(words).to(torch.int16)
    bits(weight_ND)[1, : len(words)] = given_bits
    bits(weight_ND)[2, -len(words) :] = given_bits
    weight = lossless.pack(weight_ND.clone(), None)
    assert weight.layout == lossless.LAYOUT
    assert torch.equal(bits(lossless.dense(weight)), bits(weight_ND))


def test_a_weight_takes_12_bits() -> None:
    weight_ND = drawn(64, 4096, 0, 0)
    weight_ND[5] = 0.0
    weight = lossless.pack(weight_ND.clone(), None)
    assert weight.layout == lossless.LAYOUT
    assert weight.nbytes * 8 / weight_ND.numel() < 12.1
    assert torch.equal(bits(lossless.dense(weight)), bits(weight_ND))


def test_places_for_exceptions_are_as_many_as_one_output_needs() -> None:
    for exceptions, places in ((0, 8), (8, 8), (9, 16), (32, 32), (33, None)):
        weight_ND = drawn(3, 4096, 0, 0)
        weight_ND[weight_ND.abs() < 1e-4] = 0.01
        weight_ND[1, 7 : 7 + exceptions] = 1e-12
        weight = lossless.pack(weight_ND.clone(), None)
        assert torch.equal(bits(lossless.dense(weight)), bits(weight_ND))
        if places is None:
            assert weight.layout == reference.LAYOUT
        else:
            assert weight.extras[1].shape == (3, places)


def test_a_copy_for_one_row_is_the_same_numbers() -> None:
    weight_ND, bias_N = drawn(70, 520, 3, 0.2), drawn(1, 70, 4, 0)[0]
    weight, alone = lossless.pack_beside(weight_ND, bias_N), lossless.pack(weight_ND, bias_N)
    assert weight.data is weight_ND
    assert (weight.layout, weight.extras, weight.bias_N) == (reference.LAYOUT, (), bias_N)
    copy = weight.one_row_copy
    assert copy is not None
    assert torch.equal(bits(lossless.dense(copy)), bits(weight_ND))
    assert copy.bias_N is bias_N
    assert weight.for_rows(1) is copy
    assert weight.for_rows(0) is weight.for_rows(2) is weight
    assert alone.for_rows(1) is alone
    # Of the bias there is one, which is the weight's.
    assert weight.copy_bytes == alone.nbytes - bias_N.nbytes == 70 * (3 * 136 * 2 + 4 + 8 * 4)
    assert weight.nbytes == weight_ND.nbytes + bias_N.nbytes + weight.copy_bytes
    assert alone.copy_bytes == 0


def test_there_is_no_copy_of_what_12_bits_do_not_hold() -> None:
    weight_ND = drawn(3, 4096, 0, 0)
    weight_ND[1, :33] = 1e-12
    weight = lossless.pack_beside(weight_ND, None)
    assert weight.one_row_copy is None
    assert weight.for_rows(1) is weight
    assert weight.nbytes == weight_ND.nbytes


def test_products_are_those_of_the_weights_as_they_were() -> None:
    weight_ND, bias_N = drawn(70, 520, 3, 0.2), drawn(1, 70, 4, 0)[0]
    x_TD, residual_TN = drawn(5, 520, 5, 0), drawn(5, 70, 6, 0)
    packed, plain = (form.pack(weight_ND.clone(), bias_N) for form in (lossless, reference))
    assert packed.layout == lossless.LAYOUT
    assert torch.equal(lossless.linear(x_TD, packed, residual_TN), reference.linear(x_TD, plain, residual_TN))
