"""fused_linear in Triton: a program owns some outputs, goes through all inputs once, and norms them on the way.

The norm's root is a factor of the whole row, so it is multiplied in at the end: until then a program only adds up the
squares that it sees pass. Weights of fewer bits become numbers of the rows' type in registers, between shared memory
and the tensor cores; a scale that holds for some inputs only is multiplied to the sum over those. Rows are not
quantised here: with few of them the weights' bytes are all that counts, and to look for each row's largest number in
every program takes longer than the kernels that it saves (45 us instead of 24 for 14,336 inputs on an H100).

Legend beyond the package's: BN outputs of a program, BT rows, BK inputs at a time (of each part of int4.py).
"""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.fused_linear.decoding import exception_at, load_weights, numbers, placeholder
from tradewind.kernels.fused_linear.vector import vector_kernel
from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.order import begin
from tradewind.kernels.linear import LinearWeight, fp8, fp8_blocks, int4, lossless, reference
from tradewind.kernels.linear.tactics import ChainedTactic, FusedTactic, Tactics

C = TypeVar("C", FusedTactic, ChainedTactic)


@triton.jit
def _multiply(
    acc, raw, x_t, scales_at, output, N,
    PART: tl.constexpr, PARTS: tl.constexpr, PLANES: tl.constexpr, IN_PAIRS: tl.constexpr, GROUPED: tl.constexpr,
):  # fmt: skip
    tile = numbers(raw, x_t, PART, PARTS, PLANES, IN_PAIRS)
    if GROUPED:
        acc += tl.dot(tile, x_t) * tl.load(scales_at, mask=output < N, other=0.0).to(tl.float32)[:, None]
    else:
        acc = tl.dot(tile, x_t, acc)
    return acc


@triton.jit
def _exceptions(slots_at, output, N, scale, x, x_stride, gain, token, T, NORMED: tl.constexpr):
    """What one exception of each output adds."""
    column, number = exception_at(slots_at, output, N)
    x_at = x + token.to(tl.int64)[None, :] * x_stride + column[:, None]
    some = tl.load(x_at, mask=(token < T)[None, :], other=0.0)
    if NORMED:
        some = (some.to(tl.float32) * tl.load(gain + column).to(tl.float32)[:, None]).to(some.dtype)
    return some.to(tl.float32) * (number - placeholder(scale))[:, None]


@triton.jit(do_not_specialize=["T"])
def fused_linear_kernel(
    x, x_stride, gain, w, scales, scale_stride_n, scale_stride_k, exceptions, bias, residual, y, T, N, D, WIDTH, eps,
    PARTS: tl.constexpr, PLANES: tl.constexpr, EXCEPTIONS: tl.constexpr,
    GROUP: tl.constexpr, SPAN: tl.constexpr, SCALED: tl.constexpr,
    NORMED: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    EVEN: tl.constexpr, IN_PAIRS: tl.constexpr, OVERLAPS: tl.constexpr,
    BN: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (i, j): outputs [i * BN, ...) of rows [j * BT, ...). GATED: w has N rows of gates first, then N others.

    WIDTH: numbers of a row of w in each of its PLANES; part p of PARTS holds inputs [p * WIDTH, ...). SCALED: each SPAN
    outputs have a scale, for every GROUP inputs of their own, or (0) for all of them. EXCEPTIONS: places for those of
    an output.
    """
    output = tl.program_id(0) * BN + tl.arange(0, BN)
    token = tl.program_id(1) * BT + tl.arange(0, BT)
    inner = tl.arange(0, BK)
    acc = tl.zeros([BN, BT], tl.float32)
    up_acc = tl.zeros([BN, BT], tl.float32)
    squares = tl.zeros([BT], tl.float32)
    w_at = w + output.to(tl.int64)[:, None] * (PLANES * WIDTH) + inner[None, :]
    up_at = w_at + N.to(tl.int64) * (PLANES * WIDTH)
    x_at = x + token.to(tl.int64)[:, None] * x_stride + inner[None, :]
    if SCALED:
        scales_at = scales + output // SPAN * scale_stride_n
        up_scales_at = scales + (N + output) // SPAN * scale_stride_n
    else:
        scales_at = output
        up_scales_at = output
    begin(OVERLAPS)
    for k in tl.range(0, WIDTH, BK, num_stages=STAGES):
        raw = load_weights(w_at, k, output, N, inner, WIDTH, PLANES, EVEN)
        if GATED:
            up_raw = load_weights(up_at, k, output, N, inner, WIDTH, PLANES, EVEN)
        for part in tl.static_range(PARTS):
            first = part * WIDTH + k
            there = (inner + k < WIDTH) & (inner + first < D)
            x_tile = tl.load(x_at + first, mask=(token < T)[:, None] & there[None, :], other=0.0)
            if NORMED:
                wide = x_tile.to(tl.float32)
                squares += tl.sum(wide * wide, 1)
                wide *= tl.load(gain + inner + first, mask=inner + first < D, other=0.0).to(tl.float32)[None, :]
                x_tile = wide.to(x_tile.dtype)
            x_t = tl.trans(x_tile)
            group = first // GROUP * scale_stride_k if GROUP else 0
            acc = _multiply(acc, raw, x_t, scales_at + group, output, N, part, PARTS, PLANES, IN_PAIRS, GROUP > 0)
            if GATED:
                up_acc = _multiply(
                    up_acc, up_raw, x_t, up_scales_at + group, output, N, part, PARTS, PLANES, IN_PAIRS, GROUP > 0
                )
    if SCALED and GROUP == 0:
        scale = tl.load(scales_at, mask=output < N, other=0.0)
        acc *= scale[:, None]
        if GATED:
            up_scale = tl.load(up_scales_at, mask=output < N, other=0.0)
            up_acc *= up_scale[:, None]
    if EXCEPTIONS:
        for place in range(EXCEPTIONS):
            slots_at = exceptions + output * EXCEPTIONS + place
            acc += _exceptions(slots_at, output, N, scale, x, x_stride, gain, token, T, NORMED)
            if GATED:
                slots_at += N * EXCEPTIONS
                up_acc += _exceptions(slots_at, output, N, up_scale, x, x_stride, gain, token, T, NORMED)
    if NORMED:
        root = 1.0 / tl.sqrt(squares / D + eps)
        acc *= root[None, :]
        up_acc *= root[None, :]
    if HAS_BIAS:
        acc += tl.load(bias + output, mask=output < N, other=0.0).to(tl.float32)[:, None]
        if GATED:
            up_acc += tl.load(bias + N + output, mask=output < N, other=0.0).to(tl.float32)[:, None]
    if GATED:
        acc = acc / (1.0 + tl.exp(-acc)) * up_acc
    y_at = token.to(tl.int64)[None, :] * N + output[:, None]
    inside = (token < T)[None, :] & (output < N)[:, None]
    if HAS_RESIDUAL:
        acc += tl.load(residual + y_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + y_at, acc.to(y.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class Reading:
    """How the kernel finds numbers and scales: PARTS, PLANES, GROUP and SPAN of it, and the strides of the scales."""

    parts: int = 1
    planes: int = 1
    exceptions: int = 0
    group: int = 0
    span: int = 1
    stride_n: int = 1
    stride_k: int = 1

    @classmethod
    def of(cls, weight: LinearWeight) -> "Reading":
        """By the weight's layout."""
        if weight.layout in (reference.LAYOUT, fp8.LAYOUT):
            return cls()
        if weight.layout == lossless.LAYOUT:
            return cls(lossless.PARTS, lossless.PLANES, weight.extras[1].shape[1])
        (scales,) = weight.extras
        if weight.layout == fp8_blocks.LAYOUT:
            return cls(group=fp8_blocks.BLOCK, span=fp8_blocks.BLOCK, stride_n=scales.stride(0))
        return cls(int4.PARTS, group=int4.group_of(weight), stride_k=scales.stride(0))

    def inputs(self, tactic: FusedTactic | ChainedTactic) -> int:
        """Of a step: a tile has the scales of one group."""
        return min(tactic.inputs, self.group) if self.group else tactic.inputs

    def fitted(self, tactic: C, chip: Chip, itemsize: int, *, gated: bool, row_itemsize: int = 2) -> C:
        """The tactic, with as many stages as have room on this chip. The bytes are those of a weight's number in
        memory, and of a row's.
        """
        weights = tactic.outputs * (2 if gated else 1) * self.planes * itemsize
        stage_bytes = self.inputs(tactic) * (weights + tactic.rows * self.parts * row_itemsize)
        stages = chip.stages(tactic.stages, stage_bytes)
        return tactic if stages == tactic.stages else replace(tactic, stages=stages)


@dataclass(frozen=True)
class Extras:
    """What happens beside the product: see `tradewind.kernels.fused_linear.FusedLinear`."""

    norm: Norm | None = None
    gated: bool = False
    residual_TN: Tensor | None = None


def fused_linear(
    x_TD: Tensor, weight: LinearWeight, extras: Extras, tactic: FusedTactic, chip: Chip, out_dtype: torch.dtype
) -> Tensor:
    """y_TN in `out_dtype`, of any number of 16-bit rows and a weight in any layout that a GPU has."""
    tokens, width = x_TD.shape
    norm, residual_TN = extras.norm, extras.residual_TN
    outputs = weight.out_features // 2 if extras.gated else weight.out_features
    y_TN = torch.empty((tokens, outputs), dtype=out_dtype, device=x_TD.device)
    if not tokens:
        return y_TN
    reading, stored_width = Reading.of(weight), weight.data.shape[-1]
    if tactic.rows == 1:
        _vector(x_TD, weight, extras, tactic, chip, y_TN)
        return y_TN
    tactic = reading.fitted(tactic, chip, weight.data.itemsize, gated=extras.gated)
    block_k = reading.inputs(tactic)
    grid = (triton.cdiv(outputs, tactic.outputs), triton.cdiv(tokens, tactic.rows))
    fused_linear_kernel[grid](
        x_TD, x_TD.stride(0), norm.weight_D if norm else None, weight.data, weight.extras[0] if weight.extras else None,
        reading.stride_n, reading.stride_k, weight.extras[1] if reading.exceptions else None, weight.bias_N,
        residual_TN, y_TN, tokens, outputs, width, stored_width,
        norm.eps if norm else 0.0,
        PARTS=reading.parts, PLANES=reading.planes, EXCEPTIONS=reading.exceptions,
        GROUP=reading.group, SPAN=reading.span, SCALED=bool(weight.extras),
        NORMED=norm is not None, GATED=extras.gated, HAS_BIAS=weight.bias_N is not None,
        HAS_RESIDUAL=residual_TN is not None, EVEN=outputs % tactic.outputs == 0 and stored_width % block_k == 0,
        IN_PAIRS=x_TD.is_cuda, OVERLAPS=chip.overlaps, BN=tactic.outputs, BT=tactic.rows, BK=block_k,
        STAGES=tactic.stages, num_warps=tactic.warps, num_stages=tactic.stages, **chip.launch,
    )  # fmt: skip
    return y_TN


def _vector(x_1D: Tensor, weight: LinearWeight, extras: Extras, tactic: FusedTactic, chip: Chip, y_1N: Tensor) -> None:
    assert len(x_1D) == 1
    norm, residual_TN = extras.norm, extras.residual_TN
    outputs, width, stored_width = y_1N.shape[1], x_1D.shape[1], weight.data.shape[-1]
    reading = Reading.of(weight)
    even = outputs % tactic.outputs == 0 and stored_width % tactic.inputs == 0
    vector_kernel[(triton.cdiv(outputs, tactic.outputs),)](
        x_1D, norm.weight_D if norm else None, weight.data, weight.extras[0] if weight.extras else None,
        reading.stride_n, reading.stride_k, weight.extras[1] if reading.exceptions else None, weight.bias_N,
        residual_TN, y_1N, outputs, width, stored_width,
        norm.eps if norm else 0.0,
        PARTS=reading.parts, PLANES=reading.planes, EXCEPTIONS=reading.exceptions,
        GROUP=reading.group, SPAN=reading.span, SCALED=bool(weight.extras),
        NORMED=norm is not None, GATED=extras.gated, HAS_BIAS=weight.bias_N is not None,
        HAS_RESIDUAL=residual_TN is not None, EVEN=even, IN_PAIRS=x_1D.is_cuda,
        OVERLAPS=chip.overlaps, BN=tactic.outputs, BK=tactic.inputs,
        VEC=16 // weight.data.itemsize, num_warps=tactic.warps, **chip.launch,
    )  # fmt: skip


# Triton 3.6 cannot compile two products that share rows normed on the way for the tensor cores that came with 10.0,
# which take 64 outputs or more.
_NARROW = FusedTactic(32, 16, 128, 4, 4)


def launched(tactic: FusedTactic, chip: Chip, layout: str, *, normed: bool, gated: bool) -> FusedTactic:
    """The tactic that takes the place of a measured one on this chip: the same, wherever the compiler takes it."""
    is_refused = chip.capability[0] == 10 and layout == reference.LAYOUT and normed and gated and tactic.rows > 1
    return _NARROW if is_refused and tactic.outputs > _NARROW.outputs else tactic


class TritonFusedLinear:
    """See `tradewind.kernels.fused_linear.FusedLinear`."""

    def __init__(self, chip: Chip, tactics: Tactics) -> None:
        self._chip = chip
        self._tactics = tactics

    def __call__(
        self,
        x_TD: Tensor,
        weight: LinearWeight,
        norm: Norm | None = None,
        gated: bool = False,
        residual_TN: Tensor | None = None,
    ) -> Tensor:
        weight, normed = weight.for_rows(len(x_TD)), norm is not None
        tactic = self._tactics.find_fused(
            weight.layout, len(x_TD), weight.out_features, weight.in_features, normed=normed, gated=gated
        )
        tactic = launched(tactic, self._chip, weight.layout, normed=normed, gated=gated)
        return fused_linear(x_TD, weight, Extras(norm, gated, residual_TN), tactic, self._chip, x_TD.dtype)
