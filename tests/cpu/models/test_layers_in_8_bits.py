"""Layers whose norms are left to the products around them give what layers give op by op."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.cpu.paged import PagedModel, Sequence
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt
from tradewind.config import ModelConfig
from tradewind.kernels.fused_attention import LayerHeads
from tradewind.kernels.fused_attention.reference import fused_attention
from tradewind.kernels.linear import LinearWeight, fp8
from tradewind.kernels.linear_add_norm.reference import ReferenceLinearAddNorm
from tradewind.kernels.ops import Ops, choose_ops
from tradewind.kernels.quantised_rows import FP8, FP8_MAX, Activations, MeasuredRows
from tradewind.kernels.rows import HeadShape, Rows
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model


class WholeAttention:
    """FusedAttention of any rows, whose values are left in `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def takes(self, rows: Rows, shape: HeadShape) -> bool:
        return False

    def __call__(self, *_args: Any) -> Tensor:
        raise AssertionError("it takes nothing")

    def quantises(self, rows: Rows, shape: HeadShape) -> bool:
        return True

    def quantised(
        self, qkv_TC: Tensor, rows: Rows, k_pages_BGSK: Tensor, v_pages_BGSK: Tensor, heads: LayerHeads
    ) -> MeasuredRows:
        assert heads.largest is not None
        out_TC = fused_attention(qkv_TC, rows, k_pages_BGSK, v_pages_BGSK, heads)
        assert float(out_TC.abs().max()) <= heads.largest
        squares_TG = out_TC.square().view(len(out_TC), heads.shape.kv_heads, -1).sum(2)
        scales_T1 = torch.full((len(out_TC), 1), heads.largest / FP8_MAX)
        return MeasuredRows((out_TC / scales_T1).to(self._dtype), scales_T1, out_TC.dtype, squares_TG)


class WholeGate:
    """GatedLinear of any rows, whose values are left in `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def takes(self, x: Activations, weight: LinearWeight) -> bool:
        return True

    def __call__(self, x: Activations, weight: LinearWeight) -> MeasuredRows:
        gate_TF, up_TF = fp8.product(x, weight).chunk(2, -1)
        act_TF = functional.silu(gate_TF) * up_TF
        scales_T1 = act_TF.abs().amax(1, keepdim=True) / FP8_MAX
        squares_T1 = act_TF.square().sum(1, keepdim=True)
        return MeasuredRows((act_TF / scales_T1).to(self._dtype), scales_T1, x.dtype, squares_T1)


def of_dense(x: Activations, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """`linear` of rows that nobody quantises here."""
    x_TD = x if isinstance(x, Tensor) else x.dense()
    y_TN = x_TD.float() @ fp8.dense(weight).T
    return y_TN + sum(more.float() for more in (weight.bias_N, residual_TN) if more is not None)


def plain_ops() -> Ops:
    return replace(choose_ops("cpu", torch.float32, "torch"), pack=fp8.pack, linear=of_dense, logits=of_dense)


def ops_in_8_bits(dtype: torch.dtype) -> Ops:
    """As in torch, with all between the products left in `dtype`."""
    run, attention, gate = ReferenceLinearAddNorm(dtype), WholeAttention(dtype), WholeGate(dtype)
    return replace(plain_ops(), linear_add_norm=run, fused_attention=attention, gated_linear=gate, quantises_rows=True)


def answers(model: Model) -> Tensor:
    prompts = [random_prompt(model.spec.vocab, count, seed=count) for count in (1, 9, 30)]
    paged, sequences = PagedModel(model, block_tokens=8), [Sequence(list(prompt)) for prompt in prompts]
    first = paged.step([(sequence, len(sequence.tokens)) for sequence in sequences])
    for sequence in sequences:
        sequence.tokens.append(7)
    return torch.cat([*first, *paged.step([(sequence, 1) for sequence in sequences])])


@pytest.mark.parametrize("variant", ["llama-gqa2-rope-llama3", "qwen3-gqa2", "llama-biases"])
def test_layers_in_8_bits(variant: str, tmp_path: Path) -> None:
    directory, config = make_tiny_model(tmp_path / variant, VARIANTS[variant]), ModelConfig(dtype="float32")
    truth = answers(load_model(directory, config, "cpu", plain_ops()))
    whole = answers(load_model(directory, config, "cpu", ops_in_8_bits(torch.float32)))
    torch.testing.assert_close(whole, truth, atol=1e-4, rtol=1e-4)
    assert not torch.equal(whole, truth)  # the two do not go the same way
    by_their_largest = replace(plain_ops(), linear=fp8.linear)
    errors = [
        float((answers(load_model(directory, config, "cpu", ops)) - truth).norm())
        for ops in (by_their_largest, ops_in_8_bits(FP8))
    ]
    assert 0 < errors[1] < 1.3 * errors[0]  # rows that are rounded by a bound are nearly as near


def test_layers_go_another_way_where_one_part_cannot(tmp_path: Path) -> None:
    """Where sums are not for so many rows, attention does not quantise, or weights are of another kind."""

    class OfNothing(ReferenceLinearAddNorm):
        def takes(self, tokens: int, weights: Iterable[LinearWeight]) -> bool:
            return False

    class OfNoRows(WholeAttention):
        def quantises(self, rows: Rows, shape: HeadShape) -> bool:
            return False

    directory = make_tiny_model(tmp_path, VARIANTS["qwen3-gqa2"])
    config, ops = ModelConfig(dtype="float32"), ops_in_8_bits(torch.float32)
    ops = replace(ops, gated_linear=None)
    truth = answers(load_model(directory, config, "cpu", plain_ops()))
    for other in (replace(ops, linear_add_norm=OfNothing()), replace(ops, fused_attention=OfNoRows(torch.float32))):
        model = load_model(directory, config, "cpu", other)
        assert all(layer.bounds is not None for layer in model.layers)
        torch.testing.assert_close(answers(model), truth)
    dense = choose_ops("cpu", torch.float32, "torch")
    model = load_model(directory, config, "cpu", replace(dense, linear_add_norm=OfNothing()))
    assert all(layer.bounds is None for layer in model.layers)
