"""gated_linear in Triton: gates and what they are for are two products of one program, which multiplies them.

The weights are read as `tradewind.kernels.linear.triton` reads them. A program knows the largest numbers of its own
columns only: it writes them beside the rows, and what quantises these (with 8-bit weights) finds each row's there
instead of looking for it, and so has several programs for a row.

Legend beyond the package's: BN outputs of a program, BT rows, BK inputs at a time.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import FEW_TOKENS, Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import ask_for, begin, release
from tradewind.kernels.linear import LinearWeight, fp8, reference
from tradewind.kernels.linear.tactics import Tactic, Tactics
from tradewind.kernels.linear.triton import ahead_of, even_tactic, root_of, rooted, rows_of_program, tiles_of
from tradewind.kernels.quantised_rows import FP8, Activations, MeasuredRows, QuantisedRows
from tradewind.kernels.silu_mul.triton import gated

_PART = 2048  # columns of a row that are quantised at once


@triton.jit(do_not_specialize=["T"])
def gated_linear_kernel(
    x, x_stride, x_tiles, x_scales, x_squares, x_unit, eps, w, w_tiles, w_scales, bias, y, largest, y_squares, T, N, D,
    ahead,
    SCALED: tl.constexpr, HAS_BIAS: tl.constexpr, OVERLAPS: tl.constexpr, ROWS_FIRST: tl.constexpr, BN: tl.constexpr,
    BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, W_TMA: tl.constexpr, X_TMA: tl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...) of all rows; w has N rows of gates, then N others. BN divides N, BK divides D.

    `largest`, `y_squares` [T, N / BN], if SCALED: of each row's numbers here, and the sum of their squares. W_TMA,
    X_TMA, ROWS_FIRST, `ahead`, x_squares: as for `few_rows_kernel`.
    """
    output = tl.program_id(0) * BN + tl.arange(0, BN)
    token = tl.arange(0, BT)
    inner = tl.arange(0, BK)
    gate_at = w + output.to(tl.int64) * D
    up_at = gate_at + N.to(tl.int64) * D
    if OVERLAPS:
        ask_for(gate_at, ahead)
        ask_for(up_at, ahead)
    # What is multiplied or added at the end is asked for at the beginning, not once the sums are there.
    if SCALED:
        gate_scale, up_scale = tl.load(w_scales + output), tl.load(w_scales + N + output)
    if HAS_BIAS:
        gate_rise, up_rise = tl.load(bias + output).to(tl.float32), tl.load(bias + N + output).to(tl.float32)
    begin(OVERLAPS)
    if SCALED:
        x_scale = tl.load(x_scales + token, mask=token < T, other=0.0)
    if x_squares is not None:
        x_square = tl.load(x_squares + token, mask=token < T, other=0)
    gate = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
    up = gate
    x_at = x + token.to(tl.int64)[:, None] * x_stride + inner[None, :]
    for k in tl.range(0, D, BK, num_stages=STAGES):
        if W_TMA:
            gate_tile = w_tiles.load([tl.program_id(0) * BN, k])
            up_tile = w_tiles.load([N + tl.program_id(0) * BN, k])
        else:
            gate_tile = tl.load(gate_at[:, None] + (inner + k)[None, :], eviction_policy="evict_first")
            up_tile = tl.load(up_at[:, None] + (inner + k)[None, :], eviction_policy="evict_first")
        if X_TMA:
            x_tile = x_tiles.load([0, k])
        else:
            x_tile = tl.load(x_at + k, mask=token[:, None] < T, other=0.0)
        if ROWS_FIRST:
            gate = tl.dot(x_tile, tl.trans(gate_tile), gate)
            up = tl.dot(x_tile, tl.trans(up_tile), up)
        else:
            gate = tl.dot(gate_tile, tl.trans(x_tile), gate)
            up = tl.dot(up_tile, tl.trans(x_tile), up)
    release(OVERLAPS)
    if not ROWS_FIRST:
        gate, up = tl.trans(gate), tl.trans(up)
    if x_squares is not None:
        x_scale = rooted(x_scale, x_square, x_unit, eps, D)
    if SCALED:
        gate *= x_scale[:, None] * gate_scale[None, :]
        up *= x_scale[:, None] * up_scale[None, :]
    if HAS_BIAS:
        gate += gate_rise[None, :]
        up += up_rise[None, :]
    act = gated(gate, up).to(y.dtype.element_ty)
    tl.store(y + token.to(tl.int64)[:, None] * N + output[None, :], act, mask=token[:, None] < T)
    if SCALED:
        wide = act.to(tl.float32)
        at = token * tl.num_programs(0) + tl.program_id(0)
        tl.store(largest + at, tl.max(tl.abs(wide), 1), mask=token < T)
        tl.store(y_squares + at, tl.sum(wide * wide, 1), mask=token < T)


@triton.jit(do_not_specialize=["COUNT"])
def quantise_parts_kernel(
    x, largest, squares, out, scales, out_squares, D, COUNT,
    OVERLAPS: tl.constexpr, COUNTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (t, i): the i-th BLOCK of row t, whose largest number is one of `largest` [T, COUNT].

    `out_squares` [T] are the sums of `squares` [T, COUNT].
    """
    row = tl.program_id(0)
    release(OVERLAPS)
    count = tl.arange(0, COUNTS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = row.to(tl.int64) * D + column
    begin(OVERLAPS)
    most = tl.load(largest + row * COUNT + count, mask=count < COUNT, other=0.0)
    square = tl.load(squares + row * COUNT + count, mask=count < COUNT, other=0.0)
    wide = tl.load(x + at, mask=column < D, other=0.0).to(tl.float32)
    most = tl.maximum(tl.max(most, 0), 1e-30)
    tl.store(out + at, in_range(wide * (448.0 / most)).to(out.dtype.element_ty), mask=column < D)
    if tl.program_id(1) == 0:
        tl.store(scales + row, most / 448.0)
        tl.store(out_squares + row, tl.sum(square, 0))


class TritonGatedLinear:
    """See `tradewind.kernels.gated_linear.GatedLinear`."""

    def __init__(self, chip: Chip, tactics: Tactics) -> None:
        self._chip = chip
        self._tactics = tactics

    def takes(self, x: Activations, weight: LinearWeight) -> bool:
        """See GatedLinear."""
        layout = fp8.LAYOUT if isinstance(x, QuantisedRows) else reference.LAYOUT
        few = 1 < x.shape[0] <= FEW_TOKENS and weight.layout == layout
        return few and self._tactic(x.shape[0], weight) is not None

    def __call__(self, x: Activations, weight: LinearWeight) -> Activations:
        tokens = x.shape[0]
        tactic = self._tactic(tokens, weight)
        assert tactic is not None
        y_TF, parts = self._product(x, weight, tactic)
        if parts is None:
            return y_TF
        (largest_TG, squares_TG), width = parts, y_TF.shape[1]
        values_TF = torch.empty((tokens, width), dtype=FP8, device=y_TF.device)
        scales_T1, squares_T1 = torch.empty((2, tokens, 1), dtype=torch.float32, device=y_TF.device)
        quantise_parts_kernel[(tokens, triton.cdiv(width, _PART))](
            y_TF, largest_TG, squares_TG, values_TF, scales_T1, squares_T1, width, largest_TG.shape[1],
            OVERLAPS=self._chip.overlaps, COUNTS=next_power_of_2(largest_TG.shape[1]), BLOCK=_PART, num_warps=4,
            **self._chip.launch,
        )  # fmt: skip
        return MeasuredRows(values_TF, scales_T1, y_TF.dtype, squares_T1)

    def _product(self, x: Activations, weight: LinearWeight, tactic: Tactic) -> tuple[Tensor, Tensor | None]:
        """The gated rows, and, if they are to be quantised, the largest numbers of each program's columns, and the sums
        of their squares: [2, T, programs].
        """
        values_TD = x.values_TD if isinstance(x, QuantisedRows) else x
        tokens, width = values_TD.shape
        outputs, scaled, device = weight.out_features // 2, isinstance(x, QuantisedRows), values_TD.device
        own = tactic.outputs // 2
        y_TF = torch.empty((tokens, outputs), dtype=x.dtype, device=device)
        parts = torch.empty((2, tokens, outputs // own), dtype=torch.float32, device=device) if scaled else None
        largest_TG, squares_TG = (None, None) if parts is None else parts
        block_t = rows_of_program(tokens, tactic)
        x_tiles, w_tiles = tiles_of(values_TD, weight, tactic, own, self._chip)
        gated_linear_kernel[(outputs // own,)](
            values_TD, values_TD.stride(0), x_tiles, x.scales_T1 if isinstance(x, QuantisedRows) else None, *root_of(x),
            weight.data, w_tiles, weight.extras[0] if scaled else None, weight.bias_N, y_TF, largest_TG, squares_TG,
            tokens, outputs, width, ahead_of(weight), SCALED=scaled, HAS_BIAS=weight.bias_N is not None,
            OVERLAPS=self._chip.overlaps, ROWS_FIRST=tactic.rows_first, BN=own, BT=block_t, BK=tactic.inputs,
            STAGES=tactic.stages, W_TMA=w_tiles is not None, X_TMA=x_tiles is not None, num_warps=tactic.warps,
            num_stages=tactic.stages, **self._chip.launch,
        )  # fmt: skip
        return y_TF, parts

    def _tactic(self, tokens: int, weight: LinearWeight) -> Tactic | None:
        return even_tactic(self._tactics, tokens, weight, self._chip, gated=True)
