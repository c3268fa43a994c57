"""linear with 8- and 4-bit weights: against float64 from what the bits stand for, and bit by bit across batches."""

import pytest
import torch

from tradewind.base.errors import ConfigError
from tradewind.kernels import native
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.linear.quantisation import Quantisation, TorchQuantised, quantise_rows
from tradewind.kernels.linear.quantised_cpu import NativeQuantised

QUANTISATIONS = [Quantisation(8, 0), Quantisation(4, 32), Quantisation(4, 64), Quantisation(4, 128)]
ROUNDING = {torch.float32: 2**-23, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# How far normal random weights are from their quantised ones, as a share of their norm.
LOSS = {"int8": 0.009, "int4-g32": 0.09, "int4-g64": 0.1, "int4-g128": 0.11}

each_quantisation = pytest.mark.parametrize("quantisation", QUANTISATIONS, ids=lambda q: q.layout)


def dense(ops: NativeQuantised, weight: LinearWeight) -> torch.Tensor:
    return ops.rows(torch.arange(weight.out_features), weight, torch.float32).double()


def check(y: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    excess = (y.double() - truth).abs() - ROUNDING[dtype] * truth.abs() - 1e-6 * truth.abs().max()
    assert excess.max() <= 0, excess.max()


@each_quantisation
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 2), (33, 130), (70, 65), (200, 333)])
def test_against_float64(
    library: native.Library, quantisation: Quantisation, dtype: torch.dtype, n: int, k: int
) -> None:
    ops = NativeQuantised(library, quantisation)
    bias = torch.randn(n).to(dtype)
    weight = torch.randn(n, k).to(dtype)
    with_bias, plain = ops.pack(weight, bias), ops.pack(weight, None)
    numbers = dense(ops, plain)
    for rows in (1, 2, 5, 6, 7, 12, 13, 25, 70):
        x = torch.randn(rows, k + 3).to(dtype)[:, :k]  # strided rows
        residual = torch.randn(rows, n).to(dtype)
        product = quantise_rows(x).double() @ numbers.T
        check(ops.linear(x, plain), product, dtype)
        check(ops.linear(x, with_bias, residual.clone()), product + bias.double() + residual.double(), dtype)
        logits = ops.logits(x, plain)
        check(logits, product, torch.float32)
        memory = torch.full((rows, n), float("nan"))
        ops.fill_logits(x, plain, memory)
        assert torch.equal(memory, logits)
    assert ops.linear(x[:0], plain).shape == (0, n)


@each_quantisation
def test_what_quantisation_loses(library: native.Library, quantisation: Quantisation) -> None:
    ops = NativeQuantised(library, quantisation)
    weight = torch.randn(64, 512)
    weight[3] = 0
    packed = ops.pack(weight, None)
    assert packed.nbytes <= 1.02 * weight.numel() * quantisation.bits_per_weight / 8 + 4 * 64
    loss = float((dense(ops, packed) - weight.double()).norm() / weight.double().norm())
    assert 0 < loss < LOSS[quantisation.layout]
    by_torch = TorchQuantised(quantisation)
    x = torch.randn(4, 512)
    theirs = by_torch.linear(x, by_torch.pack(weight, None))
    assert float((ops.linear(x, packed) - theirs).norm() / theirs.norm()) < 2 * LOSS[quantisation.layout]


def quantised_by_hand(weight: torch.Tensor, group: int) -> torch.Tensor:
    """What 4 bits make of a weight, one input at a time: the scale, of nine that are tried, that loses the least."""
    n, k = weight.shape
    groups = torch.nn.functional.pad(weight.float(), (0, -k % group)).view(n, -1, group)
    extreme = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))[..., 0]
    best, gained = torch.zeros_like(extreme), torch.full_like(extreme, -1)
    for way in range(9):
        inverse = torch.full_like(extreme, -(7 + 0.25 * way)) / extreme
        dot, norm = torch.zeros_like(extreme), torch.zeros_like(extreme)
        for number in groups.unbind(2):
            q = (number * inverse).round().clamp(-8, 7)
            dot, norm = dot + number * q, norm + q * q
        gain = dot * dot / norm
        best, gained = torch.where(gain > gained, dot / norm, best), torch.where(gain > gained, gain, gained)
    scale = best.bfloat16().float()[..., None]
    inverse = torch.where(scale != 0, 1 / scale, 0)
    return ((groups * inverse).round().clamp(-8, 7) * scale).view(n, -1)[:, :k]


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (33, 130), (70, 65), (90, 300)])
def test_4_bits_are_chosen_alike_at_every_instruction_set(library: native.Library, group: int, n: int, k: int) -> None:
    weight = torch.randn(n, k).bfloat16()
    weight[n // 2] = 0
    weight[0, : k // 2] = 1.5  # ties for the largest number
    ops = NativeQuantised(library, Quantisation(4, group))
    assert torch.equal(dense(ops, ops.pack(weight, None)), quantised_by_hand(weight, group).double())


@each_quantisation
def test_a_row_is_the_same_whatever_the_batch_and_the_threads(
    library: native.Library, quantisation: Quantisation
) -> None:
    ops = NativeQuantised(library, quantisation)
    packed = ops.pack(torch.randn(150, 259).bfloat16(), torch.randn(150).bfloat16())
    x = torch.randn(1200, 259).bfloat16()
    together = ops.linear(x, packed)
    for first, rows in [(0, 1), (1199, 1), (3, 2), (100, 5), (7, 12), (50, 13), (0, 31), (1000, 200), (1, 1199)]:
        assert torch.equal(ops.linear(x[first : first + rows], packed), together[first : first + rows]), (first, rows)
    torch.set_num_threads(1)
    assert torch.equal(ops.linear(x, packed), together)
    assert torch.equal(ops.pack(torch.ones(40, 70), None).data, ops.pack(torch.ones(40, 70), None).data)


@each_quantisation
def test_what_is_not_finite_stays_in_its_row(best: native.Library, quantisation: Quantisation) -> None:
    ops = NativeQuantised(best, quantisation)
    packed = ops.pack(torch.randn(40, 100), None)
    x = torch.randn(3, 100)
    clean = ops.linear(x, packed)
    for bad in (float("nan"), float("inf")):
        spoiled = x.clone()
        spoiled[1, 50] = bad
        y = ops.linear(spoiled, packed)
        assert y[1].isnan().all()
        assert torch.equal(y[::2], clean[::2])
    assert torch.equal(ops.linear(torch.zeros(2, 100), packed), torch.zeros(2, 40))


def test_sums_are_the_same_at_every_instruction_set(best: native.Library) -> None:
    """Integer sums are exact; what follows them rounds alike."""
    quantisation = Quantisation(8, 0)
    weight, x = torch.randn(50, 300), torch.randn(9, 300)
    results = []
    for level in native.LEVELS:
        try:
            ops = NativeQuantised(native.load(level), quantisation)
        except ConfigError:
            continue
        results.append(ops.linear(x, ops.pack(weight, None)))
    assert all(torch.equal(result, results[0]) for result in results)
