"""Sampling in Triton: no host, no sort. Every row looks at its logits in chunks, a program each.

1. Each chunk: its largest logit, where that is, and the mass exp((logit - largest) / temperature) of the chunk.
2. Each row: if it has filters, the least logit that it keeps, by bisection in sixteen parts over the logits' bits, and
   what is left of the masses; then the chunk in which the running mass passes its random number, the place inside it,
   and the token's storage.

Legend: N rows, V vocabulary, C chunks of a row, U turns.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import begin, release
from tradewind.kernels.sample import DrawColumns

_CHUNK = 4096
_PARTS = tl.constexpr(16)


@triton.jit
def _key(logit):
    """An integer for each float32, in the same order."""
    bits = logit.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _load(row_logits, place, V):
    """Logits of a row; NaN counts as +inf, which no row may have."""
    logit = tl.load(row_logits + place, mask=place < V, other=float("-inf"))
    return tl.where(logit == logit, logit, float("inf"))


@triton.jit
def chunks_kernel(logits, V, count, temperatures, largest, places, masses, OVERLAPS: tl.constexpr, CHUNK: tl.constexpr):
    """Program (n, c)."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    release(OVERLAPS)
    begin(OVERLAPS)
    place = chunk * CHUNK + tl.arange(0, CHUNK)
    # All is asked for at once, also for rows that are not there.
    logit, temperature = _load(logits + row * V, place, V), tl.load(temperatures + row)
    if row < tl.load(count):
        best = tl.max(logit, 0)
        # -inf everywhere: any place will do, for the row fails.
        first = tl.min(tl.where(logit == best, place, V - 1), 0)
        at = row * tl.num_programs(1) + chunk
        tl.store(largest + at, best)
        tl.store(places + at, first)
        if temperature > 0:
            base = tl.where((best > float("-inf")) & (best < float("inf")), best, 0.0)
            tl.store(masses + at, tl.sum(tl.exp((logit - base) / temperature), 0))


@triton.jit
def _weight_from(row_logits, V, best, temperature, floor, first, step, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """For j in 0..15: how many logits, or how much mass, have a key of at least first + j * step, and of `floor`."""
    part = tl.arange(0, _PARTS)
    total = tl.zeros([_PARTS], tl.float32)
    each = tl.arange(0, BLOCK)
    for begin_at in range(0, V, BLOCK):
        logit = _load(row_logits, begin_at + each, V)
        key = _key(logit).to(tl.int64)
        weight = tl.where(key >= floor, tl.exp((logit - best) / temperature) if BY_MASS else 1.0, 0.0)
        for j in tl.static_range(16):
            passed = tl.sum(tl.where(key >= first + j * step, weight, 0.0), 0)
            total += tl.where(part == j, passed, 0.0)
    return total


@triton.jit
def _edge(row_logits, V, best, temperature, floor, target, BY_MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The largest key from which on there is at least `target`; at least `floor`."""
    low, high = floor, _key(best).to(tl.int64) + 1
    part = tl.arange(0, _PARTS)
    while high - low > 1:
        step = (high - low + _PARTS - 1) // _PARTS
        reached = _weight_from(row_logits, V, best, temperature, floor, low, step, BY_MASS, BLOCK)
        enough = (reached >= target) & (low + part * step < high)
        last = tl.maximum(tl.max(tl.where(enough, part, 0), 0), 0)
        high = tl.minimum(high, low + (last + 1) * step)
        low = low + last * step
    return low


@triton.jit
def _filter(
    row_logits, V, best, temperature, top_k, top_p, min_p, largest, masses, C, BLOCK: tl.constexpr, CHUNK: tl.constexpr
):
    """The least key that the row keeps. `masses` [C] become those of what it keeps, given `largest` [C]."""
    floor = tl.full([], -2147483648, tl.int64)
    if min_p > 0:
        floor = _key(best + temperature * tl.log(min_p)).to(tl.int64)
    if (top_k > 0) & (top_k < V):
        floor = _edge(row_logits, V, best, temperature, floor, top_k.to(tl.float32), False, BLOCK)
    if top_p < 1:
        whole = _weight_from(row_logits, V, best, temperature, floor, floor, 0, True, BLOCK)
        target = top_p * tl.max(whole, 0)
        floor = _edge(row_logits, V, best, temperature, floor, target, True, BLOCK)
    for c in range(C):
        logit = _load(row_logits, c * CHUNK + tl.arange(0, CHUNK), V)
        own = tl.load(largest + c)
        base = tl.where(own > float("-inf"), own, 0.0)
        kept = tl.where(_key(logit).to(tl.int64) >= floor, tl.exp((logit - base) / temperature), 0.0)
        tl.store(masses + c, tl.sum(kept, 0))
    tl.debug_barrier()  # all threads read what one of them has written
    return floor


@triton.jit
def choose_kernel(
    logits, V, count, temperatures, top_ks, top_ps, min_ps, uniforms, largest, places, masses, C, drawn, told, turn,
    told_stride, slots, positions, tokens, tokens_stride, OVERLAPS: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Program n: `drawn[n]` (int64) is -1 if the largest logit is not finite, and the slot's row of `tokens` gets 0.

    The host's row `turn` of `told` gets what `drawn` gets.
    """
    row = tl.program_id(0).to(tl.int64)
    begin(OVERLAPS)
    if row < tl.load(count):
        chunk = tl.arange(0, CHUNKS)
        there = chunk < C
        best = tl.max(tl.load(largest + row * C + chunk, mask=there, other=float("-inf")), 0)
        is_finite = (best > float("-inf")) & (best < float("inf"))
        temperature = tl.load(temperatures + row)
        top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row)
        floor = tl.full([], -2147483648, tl.int64)
        if (temperature > 0) & is_finite & ((top_k > 0) | (top_p < 1) | (min_p > 0)):
            floor = _filter(
                logits + row * V, V, best, temperature, top_k, top_p, min_p, largest + row * C, masses + row * C, C,
                BLOCK, CHUNK,
            )  # fmt: skip
        # Read again: filters need the registers.
        value = tl.load(largest + row * C + chunk, mask=there, other=float("-inf"))
        place = tl.load(places + row * C + chunk, mask=there, other=0)
        token = tl.min(tl.where((value == best) & there, place, 2147483647), 0)
        if (temperature > 0) & is_finite:
            mass = tl.load(masses + row * C + chunk, mask=there, other=0.0)
            fade = tl.where(value > float("-inf"), tl.exp((value - best) / temperature), 0.0)
            running = tl.cumsum((mass * fade).to(tl.float64), 0)
            whole = tl.max(running, 0)
            target = tl.load(uniforms + row) * whole
            # By rounding none may be above the target: then the last chunk that adds.
            which = tl.minimum(
                tl.sum(((running <= target) & there).to(tl.int32), 0),
                tl.sum(((running < whole) & there).to(tl.int32), 0),
            )
            before = tl.max(tl.where(chunk < which, running, 0.0), 0)
            each = tl.arange(0, CHUNK)
            logit = _load(logits + row * V, which * CHUNK + each, V)
            is_kept = _key(logit).to(tl.int64) >= floor
            inside = tl.cumsum(tl.where(is_kept, tl.exp((logit - best) / temperature), 0.0).to(tl.float64), 0)
            most = tl.max(inside, 0)
            index = tl.minimum(
                tl.sum((inside <= target - before).to(tl.int32), 0), tl.sum((inside < most).to(tl.int32), 0)
            )
            token = which * CHUNK + index
        answer = tl.where(is_finite, token, -1).to(tl.int64)
        tl.store(drawn + row, answer)
        tl.store(told + tl.load(turn) * told_stride + row, answer)
        at = tl.load(slots + row).to(tl.int64) * tokens_stride + tl.load(positions + row)
        tl.store(tokens + at, tl.where(is_finite, token, 0))


class TritonDraw:
    """See `tradewind.kernels.sample.Draw`."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(
        self, logits_NV: Tensor, columns: DrawColumns, tokens_SP: Tensor, drawn_N: Tensor, told_UN: Tensor
    ) -> None:
        rows, vocab = logits_NV.shape
        chunks = triton.cdiv(vocab, _CHUNK)
        device, overlaps, launch = logits_NV.device, self._chip.overlaps, self._chip.launch
        largest_NC = torch.empty((rows, chunks), dtype=torch.float32, device=device)
        places_NC = torch.empty((rows, chunks), dtype=torch.int32, device=device)
        masses_NC = torch.empty((rows, chunks), dtype=torch.float32, device=device)
        count, temperature = columns.count_1, columns.temperature_N
        chunks_kernel[(rows, chunks)](
            logits_NV, vocab, count, temperature, largest_NC, places_NC, masses_NC,
            OVERLAPS=overlaps, CHUNK=_CHUNK, num_warps=8, **launch,
        )  # fmt: skip
        choose_kernel[(rows,)](
            logits_NV, vocab, count, temperature, columns.top_k_N, columns.top_p_N, columns.min_p_N,
            columns.uniforms_N, largest_NC, places_NC, masses_NC, chunks, drawn_N, told_UN, columns.turn_1,
            told_UN.stride(0), columns.slots_N, columns.positions_N, tokens_SP, tokens_SP.stride(0), OVERLAPS=overlaps,
            CHUNKS=next_power_of_2(chunks), BLOCK=_CHUNK // 2, CHUNK=_CHUNK, num_warps=16, **launch,
        )  # fmt: skip
