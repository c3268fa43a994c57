"""chained_linear in Triton: programs share the steps of all tiles out evenly, whatever the number of tiles.

A tile is BN outputs of BT rows, and takes KS steps of BK inputs. Program p does steps [p * STEPS, (p + 1) * STEPS) of
all tiles' steps, one tile after the other: so all multiprocessors read weights until the end, also where there are a
quarter as many tiles (https://arxiv.org/abs/2301.03598). The program that finishes the last part of a tile adds the
parts up, in their order, so that the result does not depend on who that was, and does what comes after the product.

The weights are blocks of 8-bit floats (fp8_blocks.py), and then the rows are quantised, too; or numbers of 4 bits
(int4.py), which become numbers of the rows' type between shared memory and the tensor cores. Of one or two rows with
those, or with 8-bit floats that have one scale an output, diagonal.py has a kernel of its own, and of some more
registers.py.

Legend beyond the package's: BN outputs of a program, BT rows, BK inputs at a time (of each part of int4.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.chained_linear import GROUP, STEPS, PreparedRows, diagonal, registers
from tradewind.kernels.fused_linear import Norm
from tradewind.kernels.fused_linear.decoding import load_weights, numbers
from tradewind.kernels.fused_linear.triton import Reading
from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.eight_bits import in_range
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.linear import LinearWeight, fp8, fp8_blocks
from tradewind.kernels.linear.tactics import ChainedTactic, Tactics
from tradewind.kernels.quantised_rows import FP8

_MOST_TILES = 1 << 14
_MOST_OF_SUMS = 2048  # rows times inputs at a time


@triton.jit
def _multiply(
    acc, raw, x_tile, x_scale, scale,
    PART: tl.constexpr, PARTS: tl.constexpr, IN_PAIRS: tl.constexpr, ROWS_FIRST: tl.constexpr,
    X_SCALED: tl.constexpr, OF_SUMS: tl.constexpr,
):  # fmt: skip
    """X_SCALED: the weights have one scale for all outputs, else one for each. OF_SUMS: sums are multiplied by it, else
    the weights are, for which it is rounded to the rows' type.
    """
    tile = numbers(raw, x_tile, PART, PARTS, 1, IN_PAIRS)
    if X_SCALED:
        scale = x_scale * scale
        if ROWS_FIRST:
            acc += tl.dot(x_tile, tl.trans(tile)) * scale[:, None]
        else:
            acc += tl.dot(tile, tl.trans(x_tile)) * scale[None, :]
    elif OF_SUMS:
        scale = scale.to(tl.float32)
        if ROWS_FIRST:
            acc += tl.dot(x_tile, tl.trans(tile)) * scale[None, :]
        else:
            acc += tl.dot(tile, tl.trans(x_tile)) * scale[:, None]
    else:
        tile *= scale.to(tile.dtype)[:, None]
        if ROWS_FIRST:
            acc = tl.dot(x_tile, tl.trans(tile), acc)
        else:
            acc = tl.dot(tile, tl.trans(x_tile), acc)
    return acc


@triton.jit
def _scales(at, k, WIDTH, stride, PARTS: tl.constexpr, GROUP: tl.constexpr):
    """Of the groups that have the k-th input of each part."""
    found = ()
    for part in tl.static_range(PARTS):
        found += (tl.load(at + (part * WIDTH + k) // GROUP * stride),)  # type: ignore[assignment]  # it grows
    return found


@triton.jit(do_not_specialize=["T", "STEPS", "COUNT"])
def chained_linear_kernel(
    x, x_scales, squares, w, scales, scale_stride_n, scale_stride_k, bias, residual, gain, y, y_scales, y_squares,
    partials, arrivals, T, N, D, WIDTH, STEPS, COUNT, eps,
    PARTS: tl.constexpr, GROUP: tl.constexpr, SPAN: tl.constexpr, X_SCALED: tl.constexpr, NORMED: tl.constexpr,
    GATED: tl.constexpr, HAS_BIAS: tl.constexpr, ADDS: tl.constexpr, QUANTISES: tl.constexpr, IN_PAIRS: tl.constexpr,
    OVERLAPS: tl.constexpr, SPLITS: tl.constexpr, COUNTS: tl.constexpr, ROWS_FIRST: tl.constexpr,
    BN: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr, OF_SUMS: tl.constexpr,
):  # fmt: skip
    """Program (j, p): rows [j * BT, ...), and its share of the steps. GATED: w has N rows of gates, then N others.

    WIDTH: numbers of a row of w, a multiple of BK; part i of PARTS holds inputs [i * WIDTH, ...). Each SPAN outputs
    have a scale for every GROUP inputs. X_SCALED: rows have a scale for every 128 columns, and SPAN is a multiple of
    BN. NORMED: there are `squares` [COUNT, T], COUNTS filled up. ADDS: `residual` is read, overwritten by the sum, and
    what is prepared is that times `gain`. QUANTISES: what is prepared becomes 8-bit floats, and BN is a group.
    SPLITS: tiles may be cut. ROWS_FIRST: the rows are the tall operand of the tensor cores, else the weights are.
    OF_SUMS: see `_multiply`; then a step's scales are asked for a step ahead.
    `partials` [programs * 2, 1 or (GATED) 2, BT, BN] float32; `arrivals` [tiles] int32, zero, and left so.
    """
    token = tl.program_id(0) * BT + tl.arange(0, BT)
    inside_T = token < T
    inner = tl.arange(0, BK)
    if ROWS_FIRST:
        each = tl.arange(0, BT)[:, None] * BN + tl.arange(0, BN)[None, :]
    else:
        each = tl.arange(0, BT)[None, :] * BN + tl.arange(0, BN)[:, None]
    x_at = x + token[:, None] * D + inner[None, :]
    tile_steps = WIDTH // BK
    tiles = N // BN
    me = tl.program_id(1)
    first_step = me * STEPS
    last_step = tl.minimum(first_step + STEPS, tiles * tile_steps)
    begin(OVERLAPS)
    for tile in tl.range(first_step // tile_steps, tl.cdiv(last_step, tile_steps), num_stages=1):
        output = tile * BN + tl.arange(0, BN)
        w_at = w + tl.cast(tile, tl.int64) * BN * WIDTH + (tl.arange(0, BN)[:, None] * WIDTH + inner[None, :])
        to_up = N.to(tl.int64) * WIDTH  # places of their own would take more registers than there are
        if X_SCALED:
            scales_at = scales + tile * BN // SPAN * scale_stride_n
        else:
            scales_at = scales + output // SPAN * scale_stride_n
        up_scales_at = scales_at + N // SPAN * scale_stride_n
        lo = tl.maximum(first_step - tile * tile_steps, 0)
        hi = tl.minimum(last_step - tile * tile_steps, tile_steps)
        acc = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
        up_acc = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
        # Scales are few bytes, but as far away as all others: those of all parts are asked for at once.
        if OF_SUMS:
            next_scale = _scales(scales_at, lo * BK, WIDTH, scale_stride_k, PARTS, GROUP)
            next_up = _scales(up_scales_at, lo * BK, WIDTH, scale_stride_k, PARTS, GROUP) if GATED else next_scale
        for step in tl.range(lo, hi, num_stages=STAGES):
            k = step * BK
            if OF_SUMS:
                scale, up_scale = next_scale, next_up
                next_k = tl.minimum(step + 1, hi - 1) * BK
                next_scale = _scales(scales_at, next_k, WIDTH, scale_stride_k, PARTS, GROUP)
                if GATED:
                    next_up = _scales(up_scales_at, next_k, WIDTH, scale_stride_k, PARTS, GROUP)
            else:
                scale = _scales(scales_at, k, WIDTH, scale_stride_k, PARTS, GROUP)
                up_scale = _scales(up_scales_at, k, WIDTH, scale_stride_k, PARTS, GROUP) if GATED else scale
            raw = load_weights(w_at, k, output, N, inner, WIDTH, 1, True)
            if GATED:
                up_raw = load_weights(w_at, k + to_up, output, N, inner, WIDTH, 1, True)
            for part in tl.static_range(PARTS):
                first = part * WIDTH + k
                x_tile = tl.load(x_at + first, mask=inside_T[:, None], other=0.0)
                x_scale = tl.load(x_scales + first // 128 * T + token, mask=inside_T, other=0.0) if X_SCALED else 1.0
                acc = _multiply(
                    acc, raw, x_tile, x_scale, scale[part], part, PARTS, IN_PAIRS, ROWS_FIRST, X_SCALED, OF_SUMS
                )
                if GATED:
                    up_acc = _multiply(
                        up_acc, up_raw, x_tile, x_scale, up_scale[part],
                        part, PARTS, IN_PAIRS, ROWS_FIRST, X_SCALED, OF_SUMS,
                    )  # fmt: skip
        is_done = True
        if SPLITS:  # noqa: SIM102 - decided when it is compiled
            if hi - lo < tile_steps:
                programs = tl.program_id(0) * tl.num_programs(1)
                first_of_tile = tile * tile_steps // STEPS
                last_of_tile = ((tile + 1) * tile_steps - 1) // STEPS
                slot = 2 * (programs + me) + (first_step < tile * tile_steps).to(tl.int32)
                mine = partials + slot.to(tl.int64) * ((2 if GATED else 1) * BN * BT) + each
                tl.store(mine, acc)
                if GATED:
                    tl.store(mine + BN * BT, up_acc)
                tl.debug_barrier()
                arrival = arrivals + tl.program_id(0) * tiles + tile
                arrived = tl.atomic_add(arrival, 1, sem="acq_rel")
                is_done = arrived == last_of_tile - first_of_tile
                if is_done:
                    tl.store(arrival, 0)
                    acc = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
                    up_acc = tl.zeros([BT, BN] if ROWS_FIRST else [BN, BT], tl.float32)
                    for other in tl.range(first_of_tile, last_of_tile + 1, num_stages=1, loop_unroll_factor=4):
                        slot = 2 * (programs + other) + (other * STEPS < tile * tile_steps).to(tl.int32)
                        theirs = partials + slot.to(tl.int64) * ((2 if GATED else 1) * BN * BT) + each
                        acc += tl.load(theirs, cache_modifier=".cg")
                        if GATED:
                            up_acc += tl.load(theirs + BN * BT, cache_modifier=".cg")
        if is_done:
            found = acc if ROWS_FIRST else tl.trans(acc)
            up = up_acc if ROWS_FIRST else tl.trans(up_acc)
            if NORMED:
                count = tl.arange(0, COUNTS)
                squares_at = squares + count[None, :] * T + token[:, None]
                there = (count < COUNT)[None, :] & inside_T[:, None]
                root = 1.0 / tl.sqrt(tl.sum(tl.load(squares_at, mask=there, other=0.0), 1) / D + eps)
                found *= root[:, None]
                up *= root[:, None]
            if HAS_BIAS:
                found += tl.load(bias + output).to(tl.float32)[None, :]
                if GATED:
                    up += tl.load(bias + N + output).to(tl.float32)[None, :]
            if GATED:
                found = found / (1.0 + tl.exp(-found)) * up
            y_at = token[:, None] * N + output[None, :]
            inside = tl.broadcast_to(inside_T[:, None], [BT, BN])
            group_at = tile * T + token
            if ADDS:
                total = found + tl.load(residual + y_at, mask=inside, other=0.0).to(tl.float32)
                total = total.to(residual.dtype.element_ty)
                tl.store(residual + y_at, total, mask=inside)
                found = total.to(tl.float32)
                tl.store(y_squares + group_at, tl.sum(found * found, 1), mask=inside_T)
                found *= tl.load(gain + output).to(tl.float32)[None, :]
            if QUANTISES:
                y_scale = tl.maximum(tl.max(tl.abs(found), 1), 1e-30) / 448.0
                tl.store(y_scales + group_at, y_scale, mask=inside_T)
                found = in_range(found / y_scale[:, None])
            tl.store(y + y_at, found.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["T"])
def prepare_kernel(
    x, gain, out, scales, squares, T, D,
    NORMED: tl.constexpr, QUANTISES: tl.constexpr, OVERLAPS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Program (t, i): GROUPS groups of row t. NORMED: times `gain`, and with sums of squares."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    column = group[:, None] * 128 + tl.arange(0, 128)[None, :]
    inside = column < D
    if NORMED:
        by = tl.load(gain + column, mask=inside, other=0.0).to(tl.float32)
    release(OVERLAPS)
    begin(OVERLAPS)
    wide = tl.load(x + row * D + column, mask=inside, other=0.0).to(tl.float32)
    if NORMED:
        tl.store(squares + group * T + row, tl.sum(wide * wide, 1), mask=group * 128 < D)
        wide *= by
    if QUANTISES:
        scale = tl.maximum(tl.max(tl.abs(wide), 1), 1e-30) / 448.0
        tl.store(scales + group * T + row, scale, mask=group * 128 < D)
        wide = in_range(wide / scale[:, None])
    tl.store(out + row * D + column, wide.to(out.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class Place:
    """Where a product stands in a layer: whether its outputs are gates, or (both or none) added to what, and normed.

    `next_weight`: that of the product after it, if it gains by being asked for.
    """

    gated: bool = False
    residual_TN: Tensor | None = None
    norm: Norm | None = None
    next_weight: LinearWeight | None = None


@dataclass(frozen=True)
class Launch:
    """How a product is launched: its tactic, the chip, and room to count a tile's finished parts in (zeros)."""

    tactic: ChainedTactic
    chip: Chip
    arrivals: Tensor


def chained_linear(rows: PreparedRows, weight: LinearWeight, place: Place, out: PreparedRows, launch: Launch) -> None:
    """Fill `out` (not prepared where the place has neither gate nor norm) by one kernel."""
    reading, norm, itemsize = Reading.of(weight), place.norm, weight.data.itemsize
    row_itemsize = rows.values_TD.itemsize
    tactic = reading.fitted(launch.tactic, launch.chip, itemsize, gated=place.gated, row_itemsize=row_itemsize)
    tokens, width = rows.values_TD.shape
    outputs, stored_width = out.values_TD.shape[1], weight.data.shape[1]
    block_k = reading.inputs(tactic)
    counts = 0 if rows.squares_GT is None else len(rows.squares_GT)
    tiles, tile_steps, token_tiles = outputs // tactic.outputs, stored_width // block_k, -(-tokens // tactic.rows)
    steps = _share(tiles, tile_steps, launch.chip.processors * tactic.programs // token_tiles)
    programs, splits, partials = -(-tiles * tile_steps // steps), steps % tile_steps != 0, None
    if splits:
        shape = (token_tiles * programs * 2, 2 if place.gated else 1, tactic.outputs, tactic.rows)
        partials = torch.empty(shape, dtype=torch.float32, device=weight.data.device)
        assert token_tiles * tiles <= len(launch.arrivals)
    chained_linear_kernel[(token_tiles, programs)](
        rows.values_TD, rows.scales_GT, rows.squares_GT, weight.data, weight.extras[0], reading.stride_n,
        reading.stride_k, weight.bias_N, place.residual_TN, norm.weight_D if norm else None, out.values_TD,
        out.scales_GT, out.squares_GT, partials, launch.arrivals, tokens, outputs, width, stored_width, steps, counts,
        rows.eps,
        PARTS=reading.parts, GROUP=reading.group, SPAN=reading.span, X_SCALED=rows.scales_GT is not None,
        NORMED=rows.squares_GT is not None, GATED=place.gated, HAS_BIAS=weight.bias_N is not None,
        ADDS=place.residual_TN is not None, QUANTISES=out.scales_GT is not None, IN_PAIRS=weight.data.is_cuda,
        OVERLAPS=launch.chip.overlaps, SPLITS=splits, COUNTS=next_power_of_2(counts),
        ROWS_FIRST=tactic.rows_first, BN=tactic.outputs, BT=tactic.rows, BK=block_k, STAGES=tactic.stages,
        OF_SUMS=scales_sums(tactic, reading, gated=place.gated), num_warps=tactic.warps, num_stages=tactic.stages,
        **launch.chip.launch,
    )  # fmt: skip


def scales_sums(tactic: ChainedTactic, reading: Reading, *, gated: bool) -> bool:
    """Whether groups' sums are scaled, and a step's scales asked for a step ahead: larger tiles leave no registers.

    Of blocks, whose one scale is shared by many outputs, it gained nothing.
    """
    tile = tactic.rows * reading.inputs(tactic) * (2 if gated else 1)
    return reading.parts > 1 and tile <= _MOST_OF_SUMS


def _share(tiles: int, tile_steps: int, programs: int) -> int:
    """The steps of one of so many programs; of whole tiles if `programs` is 0."""
    return triton.cdiv(tiles * tile_steps, programs) if programs else tile_steps


class TritonChainedLinear:
    """See `tradewind.kernels.chained_linear.ChainedLinear`.

    Owns the memory that parts of a tile meet in, so calls must follow each other on one stream. `quantises`: the
    weights are blocks of 8-bit floats.
    """

    def __init__(
        self, device: torch.device, chip: Chip, tactics: Tactics, *, quantises: bool, steps: range = STEPS
    ) -> None:
        self._chip = chip
        self._tactics = tactics
        self._quantises = quantises
        self._steps = steps
        self.arrivals = torch.zeros(_MOST_TILES, dtype=torch.int32, device=device)

    def takes(self, weight: LinearWeight) -> bool:
        """See `ChainedLinear`; halves of gates count by themselves."""
        is_few = max(self._steps) <= diagonal.MOST_ROWS
        is_known = is_few if weight.layout == fp8.LAYOUT else Reading.of(weight).group > 0
        if (weight.layout == fp8_blocks.LAYOUT) != self._quantises or not is_known:
            return False
        is_full = weight.data.shape[1] * Reading.of(weight).parts == weight.in_features  # nothing is filled up
        return is_full and weight.out_features % (2 * GROUP) == 0 and weight.in_features % GROUP == 0

    def prepare(self, x_TD: Tensor, norm: Norm | None = None) -> PreparedRows:
        """See `ChainedLinear`."""
        tokens, width = x_TD.shape
        assert x_TD.is_contiguous()
        if norm is None and not self._quantises:
            return PreparedRows(x_TD, None, None, 0.0, x_TD.dtype)
        rows = self._rows((tokens, width), norm, x_TD.dtype, x_TD.device)
        if tokens:
            groups = next_power_of_2(min(32, triton.cdiv(width, GROUP)))
            prepare_kernel[(tokens, triton.cdiv(width, GROUP * groups))](
                x_TD, norm.weight_D if norm else None, rows.values_TD, rows.scales_GT, rows.squares_GT, tokens, width,
                NORMED=norm is not None, QUANTISES=self._quantises, OVERLAPS=self._chip.overlaps, GROUPS=groups,
                num_warps=4, **self._chip.launch,
            )  # fmt: skip
        return rows

    @property
    def steps(self) -> range:
        """See `ChainedLinear`."""
        return self._steps

    def linear(self, rows: PreparedRows, weight: LinearWeight) -> Tensor:
        """See `ChainedLinear`."""
        return self._run(rows, weight, Place()).values_TD

    def gated(self, rows: PreparedRows, weight: LinearWeight, next_weight: LinearWeight | None = None) -> PreparedRows:
        """See `ChainedLinear`."""
        return self._run(rows, weight, Place(gated=True, next_weight=next_weight))

    def add(
        self,
        rows: PreparedRows,
        weight: LinearWeight,
        residual_TN: Tensor,
        norm: Norm,
        next_weight: LinearWeight | None = None,
    ) -> PreparedRows:
        """See `ChainedLinear`."""
        assert residual_TN.is_contiguous()
        return self._run(rows, weight, Place(residual_TN=residual_TN, norm=norm, next_weight=next_weight))

    def room(
        self, tokens: int, weight: LinearWeight, place: Place, dtype: torch.dtype, tactic: ChainedTactic
    ) -> PreparedRows:
        """Where a product by this tactic leaves what it gives."""
        if not place.gated and place.norm is None:
            y_TN = torch.empty((tokens, weight.out_features), dtype=dtype, device=weight.data.device)
            return PreparedRows(y_TN, None, None, 0.0, dtype)
        width = weight.out_features // 2 if place.gated else weight.out_features
        return self._rows((tokens, width), place.norm, dtype, weight.data.device, tactic.outputs)

    def _rows(
        self, shape: tuple[int, int], norm: Norm | None, dtype: torch.dtype, device: torch.device, group: int = GROUP
    ) -> PreparedRows:
        """`group`: how many columns have a sum of squares."""
        tokens, width = shape
        values_TD = torch.empty(shape, dtype=FP8 if self._quantises else dtype, device=device)
        scales_GT, squares_GT = (
            torch.empty((triton.cdiv(width, columns), tokens), dtype=torch.float32, device=device) if needed else None
            for needed, columns in ((self._quantises, GROUP), (norm is not None, group))
        )
        return PreparedRows(values_TD, scales_GT, squares_GT, norm.eps if norm else 0.0, dtype)

    def _run(self, rows: PreparedRows, weight: LinearWeight, place: Place) -> PreparedRows:
        tokens = len(rows.values_TD)
        tactic = self._tactics.find_chained(
            weight.layout, tokens, weight.out_features, weight.in_features, gated=place.gated
        )
        if diagonal.takes(tactic):
            tactic = diagonal.fitted(tactic, weight.out_features, self._chip)
        out = self.room(tokens, weight, place, rows.dtype, tactic)
        if tokens:
            implementation(tactic)(rows, weight, place, out, Launch(tactic, self._chip, self.arrivals))
        return out


def implementation(tactic: ChainedTactic) -> Callable[[PreparedRows, LinearWeight, Place, PreparedRows, Launch], None]:
    """The kernel that this tactic is one of."""
    if diagonal.takes(tactic):
        return diagonal.chained_diagonal
    return registers.chained_in_registers if registers.takes(tactic) else chained_linear
