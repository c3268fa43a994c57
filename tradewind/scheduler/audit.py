"""Proof that the scheduler's books agree with each other. For tests, and for idle moments in production."""

from collections.abc import Mapping

import numpy as np

from tradewind.scheduler.residents import Residents
from tradewind.scheduler.sequence import NEVER, NO_SLOT, Sequence, State


def audit(residents: Residents, live: Mapping[int, Sequence]) -> None:
    """Raises AssertionError naming the sequence whose state contradicts its place."""
    rows = residents.rows
    seated = {sequence.slot: sequence for sequence in live.values() if sequence.slot != NO_SLOT}
    for slot, owner in enumerate(residents.by_slot):
        assert seated.get(slot) is owner, f"slot {slot} belongs to {owner}, not {seated.get(slot)}"
        expected = NEVER if owner is None else owner.request_id
        assert rows.request_ids[slot] == expected, f"slot {slot} says {rows.request_ids[slot]}, not {expected}"
        decodes = owner is not None and owner.state is State.DECODE
        assert rows.is_decoding[slot] == decodes, f"slot {slot} of {owner}: decoding is {rows.is_decoding[slot]}"
        assert rows.computed[slot] <= rows.capacity[slot], f"slot {slot} of {owner} computes beyond its blocks"
        if owner is None or not owner.is_running:
            assert rows.capacity[slot] == 0, f"slot {slot} has blocks without running: {owner}"
    assert rows.free_slots + len(seated) == len(residents.by_slot), "slots are lost"
    prefills = [sequence for sequence in live.values() if sequence.state is State.PREFILL]
    assert sorted(residents.prefills, key=id) == sorted(prefills, key=id), "the prompts in hand are not those that run"
    assert [p.order for p in residents.prefills] == sorted(p.order for p in prefills), "prompts are out of order"
    for sequence in live.values():
        _audit_place(sequence)
    waiting = sum(sequence.ticket != NEVER for sequence in live.values())
    assert waiting == len(residents.waiting) + len(residents.preempted), "the queues do not count who is in them"
    parked = sum(sequence.parked_on is not None for sequence in live.values())
    assert parked == len(residents.promises), "parked sequences are lost"
    going = [slot for slot in np.flatnonzero(rows.is_decoding).tolist() if not seated[slot].is_held]
    assert rows.decoding().slots.tolist() == going, "the decode group is stale"


def _audit_place(sequence: Sequence) -> None:
    state, is_queued, is_parked = sequence.state, sequence.ticket != NEVER, sequence.parked_on is not None
    has_slot = sequence.slot != NO_SLOT
    if state is State.WAITING:
        is_right = is_queued and not is_parked and not has_slot
    elif state is State.PARKED:
        is_right = is_parked and not is_queued and not has_slot
    elif state is State.PREEMPTED:
        is_right = is_queued != is_parked and has_slot
    else:
        is_right = state is not State.DONE and has_slot and not is_queued and not is_parked
    assert is_right, f"{sequence} is not where its state says"
