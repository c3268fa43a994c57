"""Which op a layer's attention runs, and what it hands on."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.cpu.paged import make_rows
from tradewind.kernels.linear import LinearWeight
from tradewind.kernels.ops import choose_ops
from tradewind.kernels.quantised_rows import Activations, QuantisedRows, quantise_rows
from tradewind.kernels.rows import HeadShape
from tradewind.layers.attention import Attention
from tradewind.layers.linear import Linear

SHAPE = HeadShape(4, 2, 8)


class Fused:
    """Stands for fused_attention: everything is 1."""

    def __init__(self, *, quantises: bool) -> None:
        self._quantises = quantises

    def takes(self, *_step: object) -> bool:
        return True

    def quantises(self, *_step: object) -> bool:
        return self._quantises

    def __call__(self, qkv_TC: Tensor, *_others: object) -> Tensor:
        return torch.ones(len(qkv_TC), SHAPE.heads * SHAPE.head_dim)

    def quantised(self, qkv_TC: Tensor, *_others: object) -> QuantisedRows:
        return quantise_rows(self(qkv_TC))


@pytest.mark.parametrize("quantises", [False, True])
def test_attention_quantises_what_the_projection_takes_so(quantises: bool) -> None:
    """And never what others than the projection are given."""
    given: list[Activations] = []

    def project(x: Activations, _weight: LinearWeight, _residual_TN: Tensor | None = None) -> Tensor:
        given.append(x)
        return torch.zeros(x.shape)

    weight = LinearWeight(torch.zeros(1), None, 1, 1, "dense")
    ops = replace(choose_ops("cpu", torch.float32, "reference"), fused_attention=Fused(quantises=quantises))
    projections = Linear(weight, lambda x, *_others: x), Linear(weight, project)
    layer = Attention(SHAPE, *projections, torch.zeros(9, 8), None, 1.0, None, ops, largest=3.0)
    pages = torch.zeros(9, SHAPE.kv_heads, 4, SHAPE.head_dim)
    rows, qkv_TC = make_rows([5] * 2, [1] * 2, [[0, 1]] * 2, 4), torch.zeros(2, SHAPE.qkv_features)
    layer(qkv_TC, rows, pages, pages)
    assert isinstance(layer.attend(qkv_TC, rows, pages, pages), Tensor)
    replace(layer, largest=None)(qkv_TC, rows, pages, pages)
    assert [isinstance(x, QuantisedRows) for x in given] == [quantises, False]
