"""From the state rows that ask for it to one step's adjustments of logits. Loops over those rows only.

Legend: N rows of logits, V vocabulary, P rows with penalties, L tokens of history, E entries.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tradewind.kernels.sample.adjust import Added, Adjustments, Allowed, Penalties
from tradewind.runner.extras import Extras
from tradewind.runner.state import ADJUSTED, StateRows
from tradewind.runner.transfer import numbers, to_device

Int64s = NDArray[np.int64]


def build_adjustments(state: StateRows, slots_N: Int64s, positions_N: Int64s) -> Adjustments | None:
    """For logits whose row n draws the token at positions_N[n] of slot slots_N[n]. None if no row asks for any."""
    rows = np.flatnonzero(state.flags_S[slots_N] & ADJUSTED)
    if not len(rows):
        return None
    extras = [state.extras[slot] for slot in slots_N[rows].tolist()]
    return Adjustments(
        allowed=_allowed(state, rows, extras),
        added=_added(state, slots_N, positions_N, rows, extras),
        penalties=_penalties(state, slots_N, positions_N, rows, extras),
    )


def _allowed(state: StateRows, rows: Int64s, extras: list[Extras]) -> Allowed | None:
    limited = [
        (row, own.allowed_E) for row, own in zip(rows.tolist(), extras, strict=True) if own.allowed_E is not None
    ]
    if not limited:
        return None
    rows_A = numbers([row for row, _ in limited], torch.int64, state.device)
    return Allowed(rows_A, torch.cat([allowed_E + row * state.shape.vocab for row, allowed_E in limited]))


def _added(state: StateRows, slots_N: Int64s, positions_N: Int64s, rows: Int64s, extras: list[Extras]) -> Added | None:
    flat: list[Tensor] = []
    values: list[Tensor] = []

    def add(row: int, ids_E: Tensor, values_E: Tensor) -> None:
        flat.append(ids_E + row * state.shape.vocab)
        values.append(values_E)

    for row, own in zip(rows.tolist(), extras, strict=True):
        position = int(positions_N[row])
        if len(own.always_E):
            add(row, own.always_E, own.always_values_E)
        if position - own.prompt_tokens < own.sampling.min_tokens and len(own.stops_E):
            add(row, own.stops_E, torch.full(own.stops_E.shape, -torch.inf, device=state.device))
        if own.bad_words is not None:
            output_O = state.tokens_SP[int(slots_N[row]), own.prompt_tokens : position]
            add(row, own.bad_words.last_W, own.bad_words.added(output_O))
    return Added(torch.cat(flat), torch.cat(values)) if flat else None


def _penalties(
    state: StateRows, slots_N: Int64s, positions_N: Int64s, rows: Int64s, extras: list[Extras]
) -> Penalties | None:
    penalised = [index for index, own in enumerate(extras) if own.penalised]
    if not penalised:
        return None
    rows_P, sampling = rows[penalised], [extras[index].sampling for index in penalised]
    slots_P, lengths_P = slots_N[rows_P], positions_N[rows_P]
    # A short history is filled up with its last token, which changes nothing: its place gets the same value twice.
    last_P1 = to_device(lengths_P - 1, state.device).unsqueeze(1)
    place_PL = torch.arange(int(lengths_P.max()), device=state.device).minimum(last_P1)
    tokens_PL = state.tokens_flat[place_PL + to_device(slots_P * state.shape.places, state.device).unsqueeze(1)].long()
    return Penalties(
        flat_PL=tokens_PL + to_device(rows_P, state.device).unsqueeze(1) * state.shape.vocab,
        counts_PL=state.counts.of(slots_P, tokens_PL),
        repetition_P1=_column([row.repetition_penalty for row in sampling], state.device),
        frequency_P1=_column([row.frequency_penalty for row in sampling], state.device),
        presence_P1=_column([row.presence_penalty for row in sampling], state.device),
    )


def _column(values: list[float], device: torch.device) -> Tensor:
    return numbers(values, torch.float32, device).unsqueeze(1)
