"""What is known of products of 8-bit weights before their rows are there."""

import pytest
import torch

from tradewind.kernels.linear import fp8
from tradewind.kernels.quantised_rows import quantise_rows

INPUTS, OUTPUTS, LAST = 256, 24, 8


def normed(row_D: torch.Tensor, gain_D: torch.Tensor) -> torch.Tensor:
    return row_D / row_D.square().mean().sqrt() * gain_D


@pytest.mark.parametrize("with_bias", [False, True])
def test_no_normed_row_gives_more_than_the_largest(with_bias: bool) -> None:
    """Not even the one that points where the largest output does, with all that rounding may add; which comes near."""
    torch.manual_seed(1)
    weight_ND = torch.randn(OUTPUTS, INPUTS) * torch.rand(OUTPUTS, 1)
    gain_D = torch.rand(INPUTS) + 0.1
    bias_N = torch.randn(OUTPUTS).abs() if with_bias else None
    weight = fp8.pack(weight_ND, bias_N)
    largest = fp8.largest_of_normed(weight, gain_D, LAST)
    rows_TD = torch.stack([normed(row_D, gain_D) for row_D in fp8.dense(weight)[-LAST:] * gain_D])
    values_TN = fp8.product(quantise_rows(rows_TD), weight)[:, -LAST:]
    assert 0.8 * largest < float(values_TN.abs().max()) < largest
    most = 17 / 16  # times as large a number may be once it is rounded: those of the row, and then those that come out
    values_TN = fp8.dense(weight) @ (rows_TD * most).T + (0.0 if bias_N is None else bias_N.unsqueeze(1))
    assert float(values_TN[-LAST:].max()) * most <= largest


def test_weights_of_nothing_have_a_largest_to_divide_by() -> None:
    weight = fp8.pack(torch.zeros(OUTPUTS, INPUTS), None)
    largest = fp8.largest_of_normed(weight, torch.ones(INPUTS), LAST)
    assert largest > 0
    assert torch.isfinite(torch.tensor(448.0 / largest))
