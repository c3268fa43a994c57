"""Sampling with torch operations over all rows at once.

No row is sorted whole on the CPU: sums and maxima are taken over chunks of a row and the answer is then looked for in
one chunk; the k-th largest is looked for in the k chunks with the largest maxima; the edge of a nucleus of very many
tokens is found by counting mass in buckets of the float's high bits.

Legend: R rows, V vocabulary, C chunks, W places of a chunk, K candidates.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.sample import SampleRows

_CHUNK = 512  # places of a chunk in sums and searches; short enough to look through, long enough to vectorise
_FEW = 2**17  # logits, up to which one pass that is not vectorised is faster than several that are
_TOP_CHUNK = 64  # the same for the k largest, of which each may bring in a whole chunk
_CANDIDATES = (64, 256)  # how many of the most likely tokens are looked at, first and then


def sample(logits_RV: Tensor, rows: SampleRows) -> Tensor:
    """See tradewind.kernels.sample.Sample."""
    best_R, tokens_R = first_largest(logits_RV)
    drawn = np.flatnonzero(rows.temperature_R)
    if len(drawn) == len(rows.temperature_R):
        tokens_R = _draw(logits_RV, rows)
    elif len(drawn):
        chosen = _send(drawn, logits_RV.device)
        tokens_R.index_copy_(0, chosen, _draw(logits_RV.index_select(0, chosen), rows.take(drawn)))
    return torch.where(best_R.isfinite(), tokens_R, -1)


def first_largest(logits_RV: Tensor) -> tuple[Tensor, Tensor]:
    """(largest_R, its first place_R). NaN counts as the largest."""
    vocab = logits_RV.shape[1]
    if vocab <= 2 * _CHUNK or logits_RV.numel() <= _FEW:  # either way gives the same
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
    filtered = np.flatnonzero((rows.min_p_R > 0) | (rows.top_k_R > 0) | (rows.top_p_R < 1.0))
    if len(filtered) == len(p_RV):
        return _draw_filtered(p_RV, rows)
    tokens_R = _inverse(p_RV, _uniforms(rows, p_RV.device))
    if len(filtered):
        tokens_R[_send(filtered, p_RV.device)] = _draw_filtered(_rows_of(p_RV, filtered), rows.take(filtered))
    return tokens_R


def _draw_filtered(p_RV: Tensor, rows: SampleRows) -> Tensor:
    """Tokens of rows that all have a filter. `p_RV` may be overwritten.

    Few tokens usually remain, so they are looked for among the most likely ones. Whether they were all found does not
    depend on how many were looked at once they were, so neither does the token.
    """
    if p_RV.is_cuda:  # a GPU sorts fast, and must not wait for the host to learn whether the candidates sufficed
        return _draw_dense(p_RV, rows)
    tokens_R = torch.empty(len(p_RV), dtype=torch.int64)
    left = np.arange(len(p_RV))
    for count in _CANDIDATES:
        tokens, settled_R = draw_from_candidates(_rows_of(p_RV, left), rows.take(left), min(count, p_RV.shape[1]))
        settled = settled_R.numpy()
        tokens_R[torch.from_numpy(left[settled])] = tokens[settled_R]
        left = left[~settled]
        if not len(left):
            return tokens_R
    tokens_R[torch.from_numpy(left)] = _draw_dense(_rows_of(p_RV, left), rows.take(left))
    return tokens_R


def draw_from_candidates(p_RV: Tensor, rows: SampleRows, count: int) -> tuple[Tensor, Tensor]:
    """(tokens_R, settled_R): tokens drawn from the `count` most likely; settled: all that the row keeps is there."""
    values_RK, ids_RK = largest(p_RV, count)
    running_RK = values_RK.cumsum(-1, dtype=torch.float64)
    least_R1, reached_R1 = _floor(values_RK, rows)
    whole = count == p_RV.shape[1]
    # All that min_p and top_k keep is among the candidates if the last of these is dropped.
    found_R1 = (reached_R1 & (values_RK[:, -1:] < least_R1)) | whole
    if (rows.top_p_R < 1.0).any():
        kept_R1 = (values_RK >= least_R1).sum(-1, keepdim=True)
        mass_R1 = running_RK.gather(1, (kept_R1 - 1).clamp_(min=0))
        bare = (rows.min_p_R == 0) & (rows.top_k_R == 0)
        if bare.any():
            bare_R1 = torch.from_numpy(bare).unsqueeze(1)
            mass_R1 = torch.where(bare_R1, _chunk_sums(p_RV).sum(-1, keepdim=True), mass_R1)
            found_R1 = found_R1 | bare_R1
        edge_R1 = (running_RK < mass_R1 * torch.from_numpy(rows.top_p_R).unsqueeze(1)).sum(-1, keepdim=True)
        nuclear_R1 = torch.from_numpy(rows.top_p_R < 1.0).unsqueeze(1)
        edge_value_R1 = values_RK.gather(1, edge_R1.clamp(max=count - 1))
        least_R1 = torch.where(nuclear_R1, torch.maximum(least_R1, edge_value_R1), least_R1)
        found_R1 &= ~nuclear_R1 | whole | ((edge_R1 < count) & (values_RK[:, -1:] < least_R1))
    by_id_RK, order_RK = ids_RK.sort(-1)
    kept_RK = values_RK.masked_fill(values_RK < least_R1, 0.0).gather(1, order_RK)
    running_RK = kept_RK.cumsum(-1, dtype=torch.float64)
    place_R1 = _first_above(running_RK, _uniforms(rows, p_RV.device).unsqueeze(1) * running_RK[:, -1:])
    return by_id_RK.gather(1, place_R1.clamp_(max=count - 1)).squeeze(1), found_R1.squeeze(1)


def _floor(values_RK: Tensor, rows: SampleRows) -> tuple[Tensor, Tensor]:
    """(the least probability that min_p and top_k keep [R, 1], whether the k-th largest is among the candidates)."""
    count = values_RK.shape[1]
    least_R1 = values_RK[:, :1] * _column(rows.min_p_R, values_RK)
    k_R1 = torch.from_numpy(rows.top_k_R).unsqueeze(1)
    kth_R1 = values_RK.gather(1, (k_R1 - 1).clamp(0, count - 1))
    return torch.where(k_R1 > 0, torch.maximum(least_R1, kth_R1), least_R1), k_R1 <= count


def _draw_dense(p_RV: Tensor, rows: SampleRows) -> Tensor:
    """The same, looking at the whole vocabulary. `p_RV` is overwritten."""
    p_RV.nan_to_num_(0.0)  # of rows that have failed
    _drop(p_RV, _thresholds(p_RV, rows))
    return _inverse(p_RV, _uniforms(rows, p_RV.device))


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
        left_RV = p_RV[_send(nuclear, p_RV.device)]  # a copy
        _drop(left_RV, _rows_of(least_R1, nuclear))
        share_R = _send(rows.top_p_R[nuclear], p_RV.device)
        _raise_to(least_R1, nuclear, _nucleus_edge(left_RV, share_R))
    return least_R1


def _kth_largest(p_RV: Tensor, k_R: NDArray[np.int64]) -> Tensor:
    vocab = p_RV.shape[1]
    k_R = np.minimum(k_R, vocab)
    # Sizes that do not depend on the other rows' k are not needed: the k-th largest value is what it is.
    values_RK, _ = largest(p_RV, int(k_R.max()))
    return values_RK.gather(1, _send(k_R - 1, p_RV.device).unsqueeze(1))


def _nucleus_edge(p_RV: Tensor, share_R: Tensor) -> Tensor:
    """The least probability of each row's nucleus, [R, 1]."""
    mass_R1 = (_chunk_sums(p_RV).sum(-1) * share_R).unsqueeze(1)
    if p_RV.is_cuda:
        descending_RV = p_RV.sort(-1, descending=True).values
        before_R1 = (descending_RV.cumsum(-1, dtype=torch.float64) < mass_R1).sum(-1, keepdim=True)
        return descending_RV.gather(1, before_R1.clamp_(max=p_RV.shape[1] - 1))
    return torch.stack([_edge_by_buckets(p_V, mass_1) for p_V, mass_1 in zip(p_RV, mass_R1, strict=True)])


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
    return inside[(running < mass_1).sum().clamp(max=len(inside) - 1).view(1)]


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


def _send(array: NDArray[Any], device: torch.device) -> Tensor:
    """A host column on the device: on a GPU without waiting for what it is still doing."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _uniforms(rows: SampleRows, device: torch.device) -> Tensor:
    return _send(rows.uniforms_R, device)


def _column(values_R: NDArray[Any], like: Tensor) -> Tensor:
    return _send(values_R, like.device).to(like.dtype).unsqueeze(1)


def _rows_of(values: Tensor, chosen: NDArray[np.int64]) -> Tensor:
    """The chosen rows: the tensor itself where they are all."""
    if len(chosen) == len(values):
        return values
    return values.index_select(0, _send(chosen, values.device))


def _raise_to(least_R1: Tensor, chosen: NDArray[np.int64], floor_R1: Tensor) -> None:
    where = _send(chosen, least_R1.device)
    least_R1[where] = torch.maximum(least_R1[where], floor_R1)
