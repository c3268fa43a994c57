"""linear_add_norm in Triton: few_rows_kernel's product, whose programs quantise what they have added up.

Legend beyond the package's: BN outputs of a program, BT rows, BK inputs at a time.
"""

from collections.abc import Iterable

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import FEW_TOKENS, Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import ask_for, begin, release
from tradewind.kernels.linear import LinearWeight, fp8
from tradewind.kernels.linear.tactics import Tactic, Tactics
from tradewind.kernels.linear.triton import ahead_of, even_tactic, rows_of_program, sums, tiles_of
from tradewind.kernels.linear_add_norm import LEAST, LEAST_ROWS, ROUNDED, UNITS, Bounded
from tradewind.kernels.quantised_rows import FP8, MeasuredRows, NormedRows

_UNITS, _LEAST, _ROUNDED = tl.constexpr(UNITS), tl.constexpr(LEAST), tl.constexpr(ROUNDED)


@triton.jit
def begin_kernel(
    x, gain, out, scales, squares, T, D, TURNS, most_gain,
    OVERLAPS: tl.constexpr, BLOCK: tl.constexpr, TURNS_PADDED: tl.constexpr,
):  # fmt: skip
    """Program t: row t, whose sum of squares is the first of `squares` [TURNS, T]; the others become 0."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < D
    by = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    release(OVERLAPS)
    begin(OVERLAPS)
    wide = tl.load(x + row * D + column, mask=inside, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(wide), 0), _LEAST)
    units = wide * (1.0 / largest * _UNITS)
    turn = tl.arange(0, TURNS_PADDED)
    square = tl.where(turn == 0, tl.sum(units * units, 0).to(tl.int64), 0)
    tl.store(squares + turn * T + row, square, mask=turn < TURNS)
    normed = wide * by * (448.0 / (largest * most_gain))
    tl.store(out + row * D + column, in_range(normed).to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, largest * most_gain / 448.0)


@triton.jit(do_not_specialize=["T"])
def linear_add_norm_kernel(
    x, x_stride, x_tiles, x_scales, x_squares, w, w_tiles, w_scales, bias, residual, before_scales, before_squares,
    before_unit, gain, y, y_scales, y_squares, T, N, D, ahead, most_gain, of_rows, rise,
    HAS_BIAS: tl.constexpr, OVERLAPS: tl.constexpr, RELEASES: tl.constexpr, ROWS_FIRST: tl.constexpr, BN: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, W_TMA: tl.constexpr, X_TMA: tl.constexpr,
    PARTS: tl.constexpr, PARTS_PADDED: tl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...) of all rows. BN divides N, BK divides D.

    x_squares [T, PARTS]: of MeasuredRows; before_scales, before_squares, before_unit: of NormedRows. y_squares [T]:
    zeros, in which all programs add up. most_gain, of_rows, rise: see Bounded. The rest as for `few_rows_kernel`.
    """
    output = tl.program_id(0) * BN + tl.arange(0, BN)
    token = tl.arange(0, BT)
    inside_T = token < T
    release(OVERLAPS and RELEASES)
    if OVERLAPS:
        ask_for(w + output.to(tl.int64) * D, ahead)
    # What is multiplied or added at the end is asked for at the beginning, not once the sums are there.
    w_scale, by = tl.load(w_scales + output), tl.load(gain + output).to(tl.float32)
    if HAS_BIAS:
        more = tl.load(bias + output).to(tl.float32)
    begin(OVERLAPS)
    part = tl.arange(0, PARTS_PADDED)
    there = inside_T[:, None] & (part < PARTS)[None, :]
    x_square = tl.load(x_squares + token[:, None] * PARTS + part[None, :], mask=there, other=0.0)
    x_scale = tl.load(x_scales + token, mask=inside_T, other=0.0)
    before_scale = tl.load(before_scales + token, mask=inside_T, other=0.0)
    before_square = tl.load(before_squares + token, mask=inside_T, other=0)
    at = token.to(tl.int64)[:, None] * N + output[None, :]
    inside = tl.broadcast_to(inside_T[:, None], [BT, BN])
    rest = tl.load(residual + at, mask=inside, other=0.0)
    acc = sums(
        x, x_stride, x_tiles, w, w_tiles, tl.program_id(0), 0, T, N, D, True, False, ROWS_FIRST, BN, BT, BK, STAGES,
        W_TMA, X_TMA,
    )  # fmt: skip
    release(OVERLAPS and not RELEASES)
    if not ROWS_FIRST:
        acc = tl.trans(acc)
    acc *= x_scale[:, None]
    acc *= w_scale[None, :]
    if HAS_BIAS:
        acc += more[None, :]
    acc += rest.to(tl.float32)
    total = acc.to(residual.dtype.element_ty)
    tl.store(residual + at, total, mask=inside)
    largest = tl.sqrt(before_square.to(tl.float32)) * (before_scale * before_unit)
    largest += of_rows * tl.sqrt(tl.sum(x_square, 1)) + rise
    largest = tl.maximum(largest * _ROUNDED, _LEAST)
    wide = total.to(tl.float32)
    units = wide * (1.0 / largest * _UNITS)[:, None]
    tl.atomic_add(y_squares + token, tl.sum(units * units, 1).to(tl.int64), mask=inside_T, sem="relaxed")
    normed = wide * by[None, :] * (448.0 / (largest * most_gain))[:, None]
    tl.store(y + at, in_range(normed).to(y.dtype.element_ty), mask=inside)
    if tl.program_id(0) == 0:
        tl.store(y_scales + token, largest * most_gain / 448.0, mask=inside_T)


class TritonLinearAddNorm:
    """See `tradewind.kernels.linear_add_norm.LinearAddNorm`."""

    def __init__(self, chip: Chip, tactics: Tactics) -> None:
        self._chip = chip
        self._tactics = tactics

    def takes(self, tokens: int, weights: Iterable[LinearWeight]) -> bool:
        """See LinearAddNorm."""
        qkv, out, gate_up, down = weights
        if not LEAST_ROWS <= tokens <= FEW_TOKENS or any(one.layout != fp8.LAYOUT for one in (qkv, out, gate_up, down)):
            return False
        has_gates = self._tactic(tokens, gate_up, gated=True) is not None
        return has_gates and all(self._tactic(tokens, one) is not None for one in (qkv, out, down))

    def begin(self, x_TD: Tensor, bounded: Bounded, turns: int) -> NormedRows:
        """See LinearAddNorm."""
        tokens, width = x_TD.shape
        squares_ST = torch.empty((turns, tokens), dtype=torch.int64, device=x_TD.device)
        normed = self._normed(x_TD, squares_ST, 0, bounded)
        begin_kernel[(tokens,)](
            x_TD, bounded.norm.weight_D, normed.values_TD, normed.scales_T1, squares_ST, tokens, width, turns,
            bounded.gain, OVERLAPS=self._chip.overlaps, BLOCK=next_power_of_2(width),
            TURNS_PADDED=next_power_of_2(turns), num_warps=max(1, min(16, next_power_of_2(width) // 512)),
            **self._chip.launch,
        )  # fmt: skip
        return normed

    def __call__(
        self, rows: MeasuredRows, weight: LinearWeight, residual_TD: Tensor, before: NormedRows, bounded: Bounded
    ) -> NormedRows:
        (tokens, width), outputs, parts = rows.shape, weight.out_features, rows.squares_TG.shape[1]
        tactic = self._tactic(tokens, weight)
        assert tactic is not None
        assert residual_TD.is_contiguous()
        normed = self._normed(residual_TD, before.squares_ST, before.turn + 1, bounded)
        block_t = rows_of_program(tokens, tactic)
        x_tiles, w_tiles = tiles_of(rows.values_TD, weight, tactic, tactic.outputs, self._chip)
        linear_add_norm_kernel[(outputs // tactic.outputs,)](
            rows.values_TD, rows.values_TD.stride(0), x_tiles, rows.scales_T1, rows.squares_TG, weight.data, w_tiles,
            weight.extras[0], weight.bias_N, residual_TD, before.scales_T1, before.squares_T, before.unit,
            bounded.norm.weight_D, normed.values_TD, normed.scales_T1, normed.squares_T, tokens, outputs, width,
            ahead_of(weight), bounded.gain, bounded.of_rows, bounded.rise, HAS_BIAS=weight.bias_N is not None,
            OVERLAPS=self._chip.overlaps, RELEASES=tactic.releases, ROWS_FIRST=tactic.rows_first, BN=tactic.outputs,
            BT=block_t, BK=tactic.inputs, STAGES=tactic.stages, W_TMA=w_tiles is not None, X_TMA=x_tiles is not None,
            PARTS=parts, PARTS_PADDED=next_power_of_2(parts), num_warps=tactic.warps, num_stages=tactic.stages,
            **self._chip.launch,
        )  # fmt: skip
        return normed

    def _normed(self, x_TD: Tensor, squares_ST: Tensor, turn: int, bounded: Bounded) -> NormedRows:
        """Room for the norm of x."""
        values_TD = torch.empty(x_TD.shape, dtype=FP8, device=x_TD.device)
        scales_T1 = torch.empty((len(x_TD), 1), dtype=torch.float32, device=x_TD.device)
        return NormedRows(values_TD, scales_T1, x_TD.dtype, squares_ST, turn, bounded.unit, bounded.norm.eps)

    def _tactic(self, tokens: int, weight: LinearWeight, *, gated: bool = False) -> Tactic | None:
        return even_tactic(self._tactics, tokens, weight, self._chip, gated=gated)
