"""Greedy sampling in Triton: the first of the largest logits, in two steps, stored where the next step reads it.

Legend: N rows, V vocabulary, C chunks of a row.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import begin

_CHUNK = 4096


@triton.jit
def largest_of_chunk_kernel(logits, V, values, places, OVERLAPS: tl.constexpr, CHUNK: tl.constexpr):
    """Program (n, c). NaN counts as +inf, which no row may have."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin(OVERLAPS)
    place = chunk * CHUNK + tl.arange(0, CHUNK)
    logit = tl.load(logits + row * V + place, mask=place < V, other=float("-inf"))
    logit = tl.where(logit == logit, logit, float("inf"))
    best = tl.max(logit, 0)
    # -inf everywhere: any place will do, for the row fails.
    first = tl.min(tl.where(logit == best, place, V - 1), 0)
    tl.store(values + row * tl.num_programs(1) + chunk, best)
    tl.store(places + row * tl.num_programs(1) + chunk, first)


@triton.jit
def store_largest_kernel(
    values, places, C, drawn, slots, positions, tokens, tokens_stride, OVERLAPS: tl.constexpr, CHUNKS: tl.constexpr
):
    """Program n: `drawn[n]` (int64) is -1 if the largest logit is not finite; the slot's row of `tokens` then gets 0."""
    row = tl.program_id(0)
    begin(OVERLAPS)
    chunk = tl.arange(0, CHUNKS)
    value = tl.load(values + row * C + chunk, mask=chunk < C, other=float("-inf"))
    place = tl.load(places + row * C + chunk, mask=chunk < C, other=0)
    best = tl.max(value, 0)
    token = tl.min(tl.where((value == best) & (chunk < C), place, 2147483647), 0)
    is_finite = (best > float("-inf")) & (best < float("inf"))
    tl.store(drawn + row, tl.where(is_finite, token, -1).to(tl.int64))
    at = tl.load(slots + row).to(tl.int64) * tokens_stride + tl.load(positions + row)
    tl.store(tokens + at, tl.where(is_finite, token, 0))


class TritonGreedy:
    """`greedy(logits_NV, slots_N, positions_N, tokens_SP, drawn_N)`: as `sample` for rows of temperature 0.

    logits_NV: float32, contiguous. slots_N, positions_N: int32: where in tokens_SP (int32) each token goes. drawn_N:
    int64; as `sample` answers. Nothing waits for the host, so it may be part of a graph.
    """

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(
        self, logits_NV: Tensor, slots_N: Tensor, positions_N: Tensor, tokens_SP: Tensor, drawn_N: Tensor
    ) -> None:
        count, vocab = logits_NV.shape
        chunks = triton.cdiv(vocab, _CHUNK)
        values_NC = torch.empty((count, chunks), dtype=torch.float32, device=logits_NV.device)
        places_NC = torch.empty((count, chunks), dtype=torch.int32, device=logits_NV.device)
        overlaps = self._chip.overlaps
        largest_of_chunk_kernel[(count, chunks)](
            logits_NV, vocab, values_NC, places_NC, OVERLAPS=overlaps, CHUNK=_CHUNK, launch_pdl=overlaps
        )
        store_largest_kernel[(count,)](
            values_NC, places_NC, chunks, drawn_N, slots_N, positions_N, tokens_SP, tokens_SP.stride(0),
            OVERLAPS=overlaps, CHUNKS=next_power_of_2(chunks), num_warps=1, launch_pdl=overlaps,
        )  # fmt: skip
