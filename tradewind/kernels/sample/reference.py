"""Sampling, one row at a time, in float64, as the contract says it: the truth that implementations are held to.

Legend: R rows, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tradewind.kernels.sample import SampleRows
from tradewind.protocol.request import RowSampling


def adjust_row(
    logits_V: Tensor, sampling: RowSampling, prompt: Sequence[int], output: Sequence[int], stop_ids: Sequence[int]
) -> Tensor:
    """Allowed tokens, bias, bad words, min_tokens and penalties for the token that follows `prompt` + `output`."""
    adjusted_V = logits_V.double().clone()
    if sampling.allowed_token_ids is not None:
        adjusted_V[:] = -torch.inf
        adjusted_V[sampling.allowed_token_ids] = logits_V[sampling.allowed_token_ids].double()
    for token, bias in (sampling.logit_bias or {}).items():
        adjusted_V[token] += bias
    for *before, last in sampling.bad_word_ids or []:
        if len(before) <= len(output) and list(output[len(output) - len(before) :]) == before:
            adjusted_V[last] = -torch.inf
    if len(output) < sampling.min_tokens:
        adjusted_V[list(stop_ids)] = -torch.inf
    for token in {*prompt, *output}:
        logit = adjusted_V[token]
        penalty = sampling.repetition_penalty
        adjusted_V[token] = logit / penalty if logit > 0 else logit * penalty
    for token in set(output):
        count = list(output).count(token)
        adjusted_V[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
    return adjusted_V


def kept(logits_V: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Probabilities after temperature and filters (not normalised again), float64 [V]. `temperature` is above 0."""
    p_V = torch.softmax(logits_V.double() / temperature, -1)
    p_V = torch.where(p_V >= min_p * p_V.max(), p_V, 0.0)
    if top_k:
        edge = p_V.sort(descending=True).values[min(top_k, len(p_V)) - 1]
        p_V = torch.where(p_V >= edge, p_V, 0.0)
    if top_p < 1.0:
        descending = p_V.sort(descending=True).values
        running = descending.cumsum(-1)
        edge = descending[min(int((running < top_p * running[-1]).sum()), len(p_V) - 1)]
        p_V = torch.where(p_V >= edge, p_V, 0.0)
    return p_V


def sample(logits_RV: Tensor, rows: SampleRows) -> Tensor:
    """See tradewind.kernels.sample.Sample."""
    tokens = [_sample_row(logits_RV[row], rows, row) for row in range(len(logits_RV))]
    return torch.tensor(tokens, dtype=torch.int64, device=logits_RV.device)


def _sample_row(logits_V: Tensor, rows: SampleRows, row: int) -> int:
    best = logits_V.max()
    if not best.isfinite():
        return -1
    temperature = float(rows.temperature_R[row])
    if temperature == 0:
        return int((logits_V == best).nonzero()[0])
    p_V = kept(logits_V, temperature, int(rows.top_k_R[row]), float(rows.top_p_R[row]), float(rows.min_p_R[row]))
    running = p_V.cumsum(-1)
    above = (running > float(rows.uniforms_R[row]) * running[-1]).nonzero()
    return int(above[0]) if len(above) else int(p_V.nonzero()[-1])


def logprobs(logits_V: Tensor, token: int) -> tuple[Tensor, int]:
    """(log probabilities of all tokens, float64 [V]; the rank of `token`, from 1)."""
    return torch.log_softmax(logits_V.double(), -1), int((logits_V > logits_V[token]).sum()) + 1
