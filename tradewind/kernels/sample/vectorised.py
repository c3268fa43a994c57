"""Sampling with torch operations over all rows at once.

No row is sorted whole on the CPU: sums and maxima are taken over chunks of a row and the answer is then looked for in
one chunk; the k-th largest is looked for in the k chunks with the largest maxima; the edge of a nucleus that has more
than `_CANDIDATES` tokens is found by counting mass in buckets of the float's high bits.

Legend: R rows, V vocabulary, C chunks, W places of a chunk, K candidates.
"""

import numpy as np
import torch
from torch import Tensor

from tradewind.kernels.sample import SampleRows

_CHUNK = 512  # places of a chunk in sums and searches; short enough to look through, long enough to vectorise
_TOP_CHUNK = 64  # the same for the k largest, of which each may bring in a whole chunk
_CANDIDATES = 256  # nuclei are usually smaller than this


def sample(logits_RV: Tensor, rows: SampleRows) -> Tensor:
    """See tradewind.kernels.sample.Sample."""
    best_R, tokens_R = first_largest(logits_RV)
    drawn = np.flatnonzero(rows.temperature_R)
    if len(drawn) == len(rows.temperature_R):
        tokens_R = _draw(logits_RV, rows)
    elif len(drawn):
        chosen = torch.from_numpy(drawn).to(logits_RV.device)
        tokens_R.index_copy_(0, chosen, _draw(logits_RV.index_select(0, chosen), rows.take(drawn)))
    return tokens_R.masked_fill_(~best_R.isfinite(), -1)


def first_largest(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """(largest_R, its first place_R). NaN counts as the largest."""
    vocab = logits_RV.shape[1]
    if vocab <= 2 * _CHUNK:
        places_R = logits_RV.argmax(-1)
        return logits_RV.gather(1, places_R.unsqueeze(1)).squeeze(1), places_R
    body_RCW, tail_RW = _chunks(logits_RV, _CHUNK)
    maxima_RC = body_RCW.amax(-1)
    if tail_RW.shape[1]:
        maxima_RC = torch.cat([maxima_RC, tail_RW.amax(-1, keepdim=True)], 1)
    chunk_R1 = maxima_RC.argmax(-1, keepdim=True)
    # The last chunk may be short: its window begins earlier, among smaller logits (an equal one would have come first).
    places_RW = _places((chunk_R1 * _CHUNK).clamp_(max=vocab - _CHUNK))
    inside_R1 = logits_RV.gather(1, places_RW).argmax(-1, keepdim=True)
    return maxima_RC.gather(1, chunk_R1).squeeze(1), places_RW.gather(1, inside_R1).squeeze(1)


def largest(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values, places) of the `count` largest of each row, in descending order. Which of equal ones is not defined."""
    vocab = values_RV.shape[1]
    if count * _TOP_CHUNK * 4 > vocab:
        found = values_RV.topk(count)
        return found.values, found.indices
    # If one of the `count` largest were in another chunk, each of the chosen chunks would have one as large.
    body_RCW, tail_RW = _chunks(values_RV, _TOP_CHUNK)
    chunks_RK = body_RCW.amax(-1).topk(count).indices
    places_RW = _places(chunks_RK.unsqueeze(2) * _TOP_CHUNK, _TOP_CHUNK).flatten(1)
    if tail_RW.shape[1]:
        tail_W = torch.arange(vocab - tail_RW.shape[1], vocab, device=values_RV.device)
        places_RW = torch.cat([places_RW, tail_W.expand(len(values_RV), -1)], 1)
    found = values_RV.gather(1, places_RW).topk(count)
    return found.values, places_RW.gather(1, found.indices)


def _draw(logits_RV: Tensor, rows: SampleRows) -> Tensor:
    """Tokens of rows with a temperature."""
    if (rows.temperature_R != 1.0).any():
        logits_RV = logits_RV.div_(_column(rows.temperature_R, logits_RV))
    p_RV = torch.softmax(logits_RV, -1)
    if rows.min_p_R.any() or rows.top_k_R.any() or (rows.top_p_R < 1.0).any():
        _drop(p_RV, _thresholds(p_RV, rows))
    return _inverse(p_RV, torch.from_numpy(rows.uniforms_R).to(p_RV.device))


def _thresholds(p_RV: Tensor, rows: SampleRows) -> Tensor:
    """The least probability that each row keeps, [R, 1]; 0 for a row without filters."""
    least_R1 = p_RV.new_zeros(len(p_RV), 1)
    if rows.min_p_R.any():
        least_R1 = p_RV.amax(-1, keepdim=True) * _column(rows.min_p_R, p_RV)
    limited = np.flatnonzero(rows.top_k_R)
    if len(limited):
        _raise_to(least_R1, limited, _kth_largest(_rows_of(p_RV, limited), rows.top_k_R[limited]))
    nuclear = np.flatnonzero(rows.top_p_R < 1.0)
    if len(nuclear):
        left_RV = p_RV[torch.from_numpy(nuclear).to(p_RV.device)]  # a copy
        _drop(left_RV, _rows_of(least_R1, nuclear))
        share_R = torch.from_numpy(rows.top_p_R[nuclear]).to(p_RV.device)
        _raise_to(least_R1, nuclear, _nucleus_edge(left_RV, share_R))
    return least_R1


def _kth_largest(p_RV: Tensor, k_R: np.ndarray) -> Tensor:
    vocab = p_RV.shape[1]
    k_R = np.minimum(k_R, vocab)
    # Sizes that do not depend on the other rows' k are not needed: the k-th largest value is what it is.
    values_RK, _ = largest(p_RV, int(k_R.max()))
    return values_RK.gather(1, torch.from_numpy(k_R - 1).to(p_RV.device).unsqueeze(1))


def _nucleus_edge(p_RV: Tensor, share_R: Tensor) -> Tensor:
    """The least probability of each row's nucleus, [R, 1]."""
    mass_R1 = (_chunk_sums(p_RV).sum(-1) * share_R).unsqueeze(1)
    # A GPU sorts fast, and must not wait for the host to learn whether the candidates sufficed.
    count = p_RV.shape[1] if p_RV.is_cuda else min(p_RV.shape[1], _CANDIDATES)
    values_RK, _ = largest(p_RV, count)
    before_R1 = (values_RK.cumsum(-1, dtype=torch.float64) < mass_R1).sum(-1, keepdim=True)
    edge_R1 = values_RK.gather(1, before_R1.clamp(max=count - 1))
    if count < p_RV.shape[1]:
        for row in (before_R1.squeeze(1) == count).nonzero().flatten().tolist():
            edge_R1[row] = _edge_by_buckets(p_RV[row], mass_R1[row])
    return edge_R1


def _edge_by_buckets(p_V: Tensor, mass_1: Tensor) -> Tensor:
    """The edge of one wide nucleus.

    The bits of a positive float32, read as an integer, have the order of the floats: the high 16 are a bucket, 128
    to a factor of two. The mass per bucket says in which one the edge lies, and only that one is sorted.
    """
    bucket_V = p_V.view(torch.int32) >> 16
    sums_B = torch.bincount(bucket_V, weights=p_V.double()).flip(0)
    running_B = sums_B.cumsum(0)
    # Rounding may leave the whole sum just short of the mass: then the edge is in the last bucket that has any.
    at = torch.minimum((running_B < mass_1).sum(), (running_B < running_B[-1]).sum())
    inside = p_V[bucket_V == len(sums_B) - 1 - at].sort(descending=True).values
    running = inside.cumsum(0, dtype=torch.float64) + (running_B[at] - sums_B[at])
    return inside[(running < mass_1).sum().clamp(max=len(inside) - 1)]


def _inverse(p_RV: Tensor, uniforms_R: Tensor) -> Tensor:
    """The place of each row at which the running sum of p exceeds uniform * sum(p)."""
    vocab = p_RV.shape[1]
    running_RC = _chunk_sums(p_RV).cumsum(-1)
    target_R1 = uniforms_R.unsqueeze(1) * running_RC[:, -1:]
    chunk_R1 = _first_above(running_RC, target_R1)
    before_R1 = torch.where(chunk_R1 > 0, running_RC.gather(1, (chunk_R1 - 1).clamp_(min=0)), 0.0)
    places_RW = _places(chunk_R1 * _CHUNK)
    inside_RW = p_RV.gather(1, places_RW.clamp(max=vocab - 1)).masked_fill_(places_RW >= vocab, 0.0)
    inside_R1 = _first_above(inside_RW.cumsum(-1, dtype=torch.float64), target_R1 - before_R1)
    return (chunk_R1 * _CHUNK + inside_R1).squeeze(1).clamp_(max=vocab - 1)


def _first_above(running_RC: Tensor, target_R1: Tensor) -> Tensor:
    """The first place whose running sum exceeds the target; by rounding there may be none: then the last that adds."""
    above_R1 = (running_RC <= target_R1).sum(-1, keepdim=True)
    last_R1 = (running_RC < running_RC[:, -1:]).sum(-1, keepdim=True)
    return torch.minimum(above_R1, last_R1)


def _chunk_sums(p_RV: Tensor) -> Tensor:
    """Sums over chunks, float64 [R, C]. Each is summed on its own: the sum of a chunk does not depend on R."""
    body_RCW, tail_RW = _chunks(p_RV, _CHUNK)
    return torch.cat([body_RCW.sum(-1), tail_RW.sum(-1, keepdim=True)], 1).double()


def _chunks(values_RV: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Views of the whole chunks [R, C, width] and of the rest [R, less than width]."""
    whole = values_RV.shape[1] // width * width
    return values_RV[:, :whole].view(len(values_RV), whole // width, width), values_RV[:, whole:]


def _places(starts: Tensor, width: int = _CHUNK) -> Tensor:
    """`starts` [..., 1] -> the `width` places from each start, [..., width]."""
    return starts + torch.arange(width, device=starts.device)


def _drop(p_RV: Tensor, least_R1: Tensor) -> None:
    """Set to zero, in place, what is less likely than a row keeps."""
    p_RV.mul_(p_RV >= least_R1)


def _column(values_R: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values_R).to(like.device, like.dtype).unsqueeze(1)


def _rows_of(values: Tensor, chosen: np.ndarray) -> Tensor:
    """The chosen rows: the tensor itself where they are all."""
    if len(chosen) == len(values):
        return values
    return values.index_select(0, torch.from_numpy(chosen).to(values.device))


def _raise_to(least_R1: Tensor, chosen: np.ndarray, floor_R1: Tensor) -> None:
    where = torch.from_numpy(chosen).to(least_R1.device)
    least_R1[where] = torch.maximum(least_R1[where], floor_R1)
