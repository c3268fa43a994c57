"""bfloat16 weights that are kept a second time for one row: who is multiplied by what, in Triton's interpreter.

What the rows must not read is NaN, or other numbers. The interpreter has no product of bfloat16: one row is in float32
here, and more are in float16, with weights to match.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.cpu.kernels.test_ops import assert_near, randn
from tests.cpu.paged import PagedModel, Sequence
from tests.cpu.tiny_models import TinyModel, make_tiny_model
from tradewind.config import ModelConfig
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.fused_linear.triton import TritonFusedLinear
from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import LinearWeight, lossless, reference
from tradewind.kernels.linear.gpu import GpuLinear
from tradewind.kernels.linear.tactics import FusedTactic, Tactics
from tradewind.kernels.ops import choose_ops
from tradewind.models.registry import load_model

CHIP = Chip(processors=3)
TACTICS = Tactics.on(CHIP)
OUTPUTS, INPUTS = 62, 264


def packed() -> LinearWeight:
    weight_ND = randn(OUTPUTS, INPUTS, dtype=torch.bfloat16, scale=INPUTS**-0.5, seed=1)
    weight_ND[3, 5], weight_ND[-1, -1] = 64.0, 3e-7
    pack = GpuLinear(CHIP, TACTICS).kernel(one_row_copy=True).pack
    return pack(weight_ND, randn(OUTPUTS, dtype=torch.float32, seed=2))


def without_weight(weight: LinearWeight) -> LinearWeight:
    return replace(weight, data=torch.full_like(weight.data, torch.nan))


def product(x_TD: Tensor, weight: LinearWeight) -> Tensor:
    assert weight.bias_N is not None
    return x_TD.double() @ weight.data.double().T + weight.bias_N.double()


def test_one_row_is_multiplied_by_the_copy() -> None:
    weight, run = packed(), GpuLinear(CHIP, TACTICS)
    x_1D, residual_1N = randn(1, INPUTS, dtype=torch.float32), randn(1, OUTPUTS, dtype=torch.float32, seed=3)
    truth, left = product(x_1D, weight), without_weight(weight)
    assert_near(run.linear(x_1D, left), truth, torch.float32)
    assert_near(run.linear(x_1D, left, residual_1N.clone()), truth + residual_1N.double(), torch.float32)
    assert_near(run.logits(x_1D, left), truth, torch.float32)


@pytest.mark.parametrize("tokens", [2, 300])
def test_more_rows_are_multiplied_by_the_weight(tokens: int) -> None:
    weight, run = packed(), GpuLinear(CHIP, TACTICS)
    other_ND, bias_N = (randn(*shape, dtype=torch.float16, seed=4) for shape in ((OUTPUTS, INPUTS), (OUTPUTS,)))
    weight = replace(weight, data=other_ND, bias_N=bias_N)
    x_TD = randn(tokens, INPUTS, dtype=torch.float16)
    assert_near(run.linear(x_TD, weight), product(x_TD, weight), torch.float16)
    assert_near(run.logits(x_TD, weight).half(), product(x_TD, weight), torch.float16)


@pytest.mark.parametrize("gated", [False, True])
def test_a_fused_product_of_one_row_is_by_the_copy(gated: bool) -> None:
    weight, norm = packed(), Norm(randn(INPUTS, dtype=torch.float32, seed=5), 1e-5)
    x_1D = randn(1, INPUTS, dtype=torch.float32)
    normed = x_1D.double() / (x_1D.double().square().mean() + norm.eps).sqrt() * norm.weight_D.double()
    truth = product(normed, weight)
    if gated:
        gate, up = truth.chunk(2, -1)
        truth = gate / (1 + (-gate).exp()) * up
    y_1N = TritonFusedLinear(CHIP, TACTICS)(x_1D, without_weight(weight), norm, gated)
    assert_near(y_1N, truth, torch.float32)


def test_exact_sums_have_no_copy() -> None:
    exact = GpuLinear(CHIP, TACTICS, exact=True)
    assert exact.kernel().pack is reference.pack
    with pytest.raises(AssertionError, match="another order"):
        exact.kernel(one_row_copy=True)


def test_a_decode_of_one_row_reads_copies_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all products, that of the output layer too: the weights beside them are NaN.

    Programs of many outputs, because each takes a while to be interpreted.
    """
    monkeypatch.setattr(Tactics, "find_fused", lambda *_args, **_kwargs: FusedTactic(128, 1, 128, 4, 1))

    def pack(weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
        copy = lossless.pack(weight_ND.bfloat16(), bias_N)
        assert copy.layout == lossless.LAYOUT
        return without_weight(replace(reference.pack(weight_ND, bias_N), one_row_copy=copy))

    shape = TinyModel(heads=2, kv_heads=1, head_dim=128, hidden=256, ffn=512, layers=2, dtype="bfloat16")
    directory, plain = make_tiny_model(tmp_path, shape), choose_ops("cpu", torch.float32, "reference")
    run, fused = GpuLinear(CHIP, TACTICS), TritonFusedLinear(CHIP, TACTICS)
    ops = replace(plain, pack=pack, linear=run.linear, logits=run.logits, fused_linear=fused, fused_rows=1)
    answers = []
    for each in (plain, ops):
        model, sequence = load_model(directory, ModelConfig(dtype="float32"), "cpu", each), Sequence([7])
        paged, steps = PagedModel(model, block_tokens=8), []
        for token in (11, 3, 5):
            steps += paged.step([(sequence, 1)])
            sequence.tokens.append(token)
        answers.append(torch.cat(steps))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-4, rtol=1e-4)
