"""fused_linear in Triton: a program owns some outputs, goes through all inputs once, and norms them on the way.

The norm's root is a factor of the whole row, so it is multiplied in at the end: until then a program only adds up the
squares that it sees pass. Legend as in tradewind.kernels.linear.triton.

Quantising on the way too was measured: to look for each tile's largest number in every program takes longer than the
kernels that it saves (45 us instead of 24 for 14,336 inputs on an H100), so 8-bit weights do without this.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.order import begin
from tradewind.kernels.linear import LinearWeight

_BT = 16


@triton.jit
def _load_weights(at, k, output, N, inner, D, EVEN: tl.constexpr):
    if EVEN:
        return tl.load(at + k, eviction_policy="evict_first")
    return tl.load(at + k, mask=(output < N)[:, None] & (inner + k < D)[None, :], other=0.0)


@triton.jit(do_not_specialize=["T"])
def fused_linear_kernel(
    x, x_stride, gain, w, residual, y, T, N, D, eps,
    NORMED: tl.constexpr, GATED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, EVEN: tl.constexpr,
    OVERLAPS: tl.constexpr, BN: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...) of all rows, N in all. GATED: w has N rows of gates first, then N others."""
    output = tl.program_id(0) * BN + tl.arange(0, BN)
    token = tl.arange(0, BT)
    inner = tl.arange(0, BK)
    acc = tl.zeros([BN, BT], tl.float32)
    up_acc = tl.zeros([BN, BT], tl.float32)
    squares = tl.zeros([BT], tl.float32)
    w_at = w + output.to(tl.int64)[:, None] * D + inner[None, :]
    up_at = w_at + N.to(tl.int64) * D
    x_at = x + token.to(tl.int64)[:, None] * x_stride + inner[None, :]
    begin(OVERLAPS)
    for k in tl.range(0, D, BK, num_stages=STAGES):
        w_tile = _load_weights(w_at, k, output, N, inner, D, EVEN)
        x_tile = tl.load(x_at + k, mask=(token < T)[:, None] & (inner + k < D)[None, :], other=0.0)
        if NORMED:
            wide = x_tile.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            wide *= tl.load(gain + inner + k, mask=inner + k < D, other=0.0).to(tl.float32)[None, :]
            x_tile = wide.to(x_tile.dtype)
        acc = tl.dot(w_tile, tl.trans(x_tile), acc)
        if GATED:
            up_acc = tl.dot(_load_weights(up_at, k, output, N, inner, D, EVEN), tl.trans(x_tile), up_acc)
    if NORMED:
        root = 1.0 / tl.sqrt(squares / D + eps)
        acc *= root[None, :]
        up_acc *= root[None, :]
    if GATED:
        acc = acc / (1.0 + tl.exp(-acc)) * up_acc
    y_at = token.to(tl.int64)[None, :] * N + output[:, None]
    inside = (token < T)[None, :] & (output < N)[:, None]
    if HAS_RESIDUAL:
        acc += tl.load(residual + y_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class FusedTactic:
    """Outputs of a program, inputs at a time, warps, stages."""

    outputs: int
    inputs: int
    warps: int
    stages: int


# By whether it has a norm and a gate; measured on an H100.
TACTICS = {
    (True, False): FusedTactic(64, 256, 4, 4),
    (True, True): FusedTactic(128, 128, 8, 3),
    (False, False): FusedTactic(64, 256, 4, 5),
    (False, True): FusedTactic(128, 128, 8, 3),
}


class TritonFusedLinear:
    """See `tradewind.kernels.fused_linear.FusedLinear`."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(
        self,
        x_TD: Tensor,
        weight: LinearWeight,
        norm: Norm | None = None,
        gated: bool = False,
        residual_TN: Tensor | None = None,
    ) -> Tensor:
        assert weight.bias_N is None
        tokens, width = x_TD.shape
        outputs = weight.out_features // 2 if gated else weight.out_features
        y_TN = torch.empty((tokens, outputs), dtype=x_TD.dtype, device=x_TD.device)
        tactic = TACTICS[norm is not None, gated]
        even = outputs % tactic.outputs == 0 and width % tactic.inputs == 0
        fused_linear_kernel[(triton.cdiv(outputs, tactic.outputs),)](
            x_TD, x_TD.stride(0), norm.weight_D if norm else None, weight.data, residual_TN, y_TN, tokens, outputs,
            width, norm.eps if norm else 0.0, NORMED=norm is not None, GATED=gated,
            HAS_RESIDUAL=residual_TN is not None, EVEN=even, OVERLAPS=self._chip.overlaps, BN=tactic.outputs, BT=_BT,
            BK=tactic.inputs, STAGES=tactic.stages, num_warps=tactic.warps, num_stages=tactic.stages,
            launch_pdl=self._chip.overlaps,
        )  # fmt: skip
        return y_TN
