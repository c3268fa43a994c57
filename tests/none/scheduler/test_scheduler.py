"""What the scheduler decides, one decision at a time."""

import random
import subprocess
import sys

import numpy as np
import pytest
from world import VOCAB, Shape, World, expected, request

from tradewind.base.errors import ContextLengthExceeded, Overloaded, RequestError
from tradewind.protocol.cost import ContextCost
from tradewind.protocol.plan import StepPlan
from tradewind.protocol.request import EngineRequest, FinishReason
from tradewind.protocol.result import NOTHING_TO_DRAW
from tradewind.scheduler.residents import MERCY_EVERY
from tradewind.scheduler.sharing import PATIENCE_PLANS

LONG = list(range(10)) + list(range(10))  # five blocks of four


def rows(plan: StepPlan | None) -> dict[int, int]:
    """Slot -> tokens."""
    assert plan is not None
    return dict(zip(plan.slots.tolist(), plan.new_tokens.tolist(), strict=True))


def steps(world: World, count: int) -> None:
    for _ in range(count):
        world.turn()


def slot_of(world: World, request_id: int) -> int:
    (slot,) = np.flatnonzero(world.scheduler._rows.request_ids == request_id)
    return int(slot)


# --- prefixes --------------------------------------------------------------------------------------------------------


def test_a_full_hit_still_computes_the_last_token():
    world = World(Shape())
    world.add(request(0, LONG, 1))
    world.drain()
    world.add(request(1, LONG, 3))
    assert rows(world.plan()) == {0: 4}, "of 20 tokens, 16 are reused"
    world.drain()
    assert world.stories[1].cached_tokens == 16


def test_what_was_said_is_reused_by_the_next_turn_of_a_chat():
    world = World(Shape())
    world.add(request(0, [1, 2, 3], 12))
    world.drain()
    said = world.stories[0].tokens
    world.add(request(1, [1, 2, 3, *said, 5], 2))
    world.drain()
    assert world.stories[1].cached_tokens == 12, "the last token said was never computed"


def test_who_asks_for_one_token_leaves_a_block_that_is_not_full_to_one_who_goes_on():
    world = World(Shape(step_tokens=64, num_blocks=40))
    text = LONG[:18]
    world.add(request(0, text, 1))
    world.drain()
    world.add(request(1, [*text, 5], 1))
    world.add(request(2, [*text, 6], 1))
    world.add(request(3, [*text, 7], 1, cache_salt="another"))
    assert sorted(rows(world.plan()).values()) == [1, 3, 19]
    world.drain()
    assert [world.stories[request_id].cached_tokens for request_id in range(1, 4)] == [18, 16, 0]


def test_a_block_that_is_not_full_is_taken_when_its_place_is_needed():
    world = World(Shape(num_blocks=6))
    text = LONG[:18]
    world.add(request(0, text, 1))
    world.drain()
    assert world.scheduler.stats().blocks_cached == 5
    world.add(request(1, [9] * 17, 4))
    world.drain()
    world.add(request(2, [*text, 5], 1))
    world.drain()
    assert world.stories[2].cached_tokens == 4, "what is left is the head"


@pytest.mark.parametrize("run_ahead", [False, True])
def test_beginnings_that_branch_get_their_own_tokens(run_ahead):
    chance = random.Random(4)
    world = World(Shape(run_ahead=run_ahead, num_blocks=40, step_tokens=16, max_running=6))
    live, asked = [[1, 2, 3], [4]], 0
    for _ in range(40):
        for beginning in live:
            world.add(request(len(world.stories), beginning, 1))
            asked += len(beginning)
        world.drain()  # the reader checks each token
        live = [[*chance.choice(live), chance.randrange(8)] for _ in range(chance.randrange(1, 6))]
    computed = asked - world.scheduler.stats().prefix_hit_tokens
    assert computed < 2.1 * len(world.stories)


def test_salts_do_not_share():
    world = World(Shape())
    world.add(request(0, LONG, 1, cache_salt="a"))
    world.drain()
    world.add(request(1, LONG, 1, cache_salt="b"))
    world.add(request(2, LONG, 1, cache_salt="a"))
    world.drain()
    assert (world.stories[1].cached_tokens, world.stories[2].cached_tokens) == (0, 16)


def test_prefix_caching_can_be_off():
    world = World(Shape(prefix_caching=False))
    for request_id in range(2):
        world.add(request(request_id, LONG, 1))
        world.drain()
    assert world.stories[1].cached_tokens == 0
    assert world.scheduler.stats().blocks_cached == 0


def test_prompt_logprobs_compute_the_whole_prompt_once():
    world = World(Shape())
    world.add(request(0, LONG, 1))
    world.drain()
    world.add(request(1, LONG, 1, prompt_logprobs=2))
    world.drain()  # the reader verifies that each position came once
    assert world.stories[1].cached_tokens == 0


def test_a_block_is_shared_only_when_its_step_has_been_applied():
    world = World(Shape(run_ahead=True, step_tokens=64))
    world.add(request(0, LONG, 8))
    world.plan()
    world.add(request(1, LONG, 1))
    assert rows(world.plan()) == {0: 1}, "the second waits for the first's prompt"
    assert world.stories[1].cached_tokens is None
    world.apply()
    assert rows(world.plan()) == {0: 1, 1: 4}
    world.drain()
    assert world.stories[1].cached_tokens == 16


def test_many_wait_for_one_prefix_and_all_get_it():
    world = World(Shape(step_tokens=8, num_blocks=40))
    for request_id in range(6):
        world.add(request(request_id, [*LONG[:16], 3, request_id], 2))
    world.drain()
    assert [world.stories[i].cached_tokens for i in range(6)] == [0, 16, 16, 16, 16, 16]
    assert world.scheduler.stats().prompt_tokens == 18 + 5 * 2


@pytest.mark.parametrize("end", ["abort", "deadline", "failure"])
def test_who_waits_for_a_prefix_computes_it_when_the_other_ends(end):
    world = World(Shape(step_tokens=4))
    world.add(request(0, LONG, 4, deadline_s=105.0 if end == "deadline" else None))
    world.plan(failing_row=0 if end == "failure" else None)
    world.add(request(1, LONG, 4))
    world.apply()
    if end == "abort":
        world.abort(0)
    elif end == "deadline":
        world.clock.advance(10)
        world.expire()
    world.drain()
    assert world.stories[1].tokens == expected(world.stories[1].request)
    assert world.stories[1].cached_tokens == (0 if end == "failure" else 4)


def test_who_waits_for_one_that_does_not_move_gives_up():
    world = World(Shape(step_tokens=4, num_blocks=40))
    world.add(request(0, LONG, 4))
    steps(world, 1)
    world.add(request(1, LONG, 4))
    steps(world, 1)
    residents = world.scheduler._residents
    assert len(residents.promises) == 1
    for _ in range(PATIENCE_PLANS + 1):  # plans in which the first gets nothing
        residents.wake(residents.promises.impatient(residents.rows))
    assert len(residents.promises) == 0
    steps(world, 1)
    assert world.stories[1].cached_tokens == 8, "it goes on from what there is"
    world.drain()


def test_a_failed_request_leaves_nothing_to_share():
    world = World(Shape(step_tokens=8))
    world.add(request(0, LONG, 4))
    steps(world, 1)
    world.plan(failing_row=0)
    world.apply()
    assert world.stories[0].finish.reason is FinishReason.ERROR
    assert world.scheduler.stats().blocks_cached == 0
    world.add(request(1, LONG, 4))
    world.drain()
    assert world.stories[1].cached_tokens == 0


# --- budget ----------------------------------------------------------------------------------------------------------


def test_several_prompts_share_a_step_after_the_decode_rows():
    world = World(Shape(step_tokens=13, num_blocks=40))
    world.add(request(0, [1], 20))
    steps(world, 1)
    world.add(request(1, [2] * 20, 4))
    world.add(request(2, [3] * 3, 4))
    world.add(request(3, [4] * 20, 4))
    assert rows(world.plan()) == {0: 1, 1: 6, 2: 3, 3: 3}
    world.drain()


def test_a_step_never_exceeds_the_smaller_budget():
    world = World(Shape(step_tokens=5, max_running=16, num_blocks=64))
    for request_id in range(16):
        world.add(request(request_id, [request_id] * 6, 6))
    while world.scheduler.has_work:
        plan = world.plan()
        assert plan is not None
        assert plan.total_tokens <= 5
        world.apply()
    world.verify_end()


def test_chunks_become_smaller_as_a_prompt_is_computed_and_nobody_waits_longer():
    context = ContextCost(((1 / 200, None),), least_tokens=4)
    world = World(Shape(step_tokens=64, num_blocks=400, max_model_len=1400, context_cost=context))
    for request_id in range(4):
        world.add(request(request_id, [request_id], 200))
    steps(world, 1)
    world.add(request(4, [7] * 1200, 2))
    chunks = []
    while not world.stories[4].tokens:
        if len(chunks) == 40:
            world.add(request(5, [9] * 20, 1))
        chunks.append(rows(world.plan())[4])  # the world verifies what the step costs
        world.apply()
        if len(chunks) == 41:
            assert world.stories[5].finish is not None, "a short prompt waits for one step"
    assert chunks[0] > 50
    assert 4 < chunks[-2] < 12
    assert 70 < len(chunks) < 100
    assert all(len(world.stories[request_id].tokens) == 1 + len(chunks) for request_id in range(4))
    world.drain()


def test_prompts_go_on_beside_decode_rows_that_cost_all_there_is():
    context = ContextCost(((0.1, None),), least_tokens=10)
    world = World(Shape(step_tokens=64, num_blocks=600, max_model_len=600, prefix_caching=False, context_cost=context))
    for request_id in range(4):
        world.add(request(request_id, [request_id] * 300, 250))
    for _ in range(400):
        if not all(world.stories[request_id].tokens for request_id in range(4)):
            world.turn()
    world.add(request(4, [7] * 40, 2))
    assert rows(world.plan())[4] == 40, "four rows of 300 tokens cost 1,200: a quarter is more than this prompt"
    world.drain()


def test_rows_that_stay_reuse_their_arrays():
    world = World(Shape(num_blocks=64, max_model_len=64))
    for request_id in range(4):
        world.add(request(request_id, [request_id], 30))
    steps(world, 4)
    one, _, two = world.plan(), world.apply(), world.plan()
    assert one.slots is two.slots
    assert one.new_tokens is two.new_tokens
    assert one.sample is two.sample
    world.drain()


# --- preemption ------------------------------------------------------------------------------------------------------


def test_the_cheapest_is_stopped_and_says_the_same_afterwards():
    world = World(Shape(num_blocks=9, max_running=3, step_tokens=48))
    world.add(request(0, [1] * 8, 12))
    world.add(request(1, [2] * 4, 12))
    world.add(request(2, [3] * 11, 12))
    while not world.scheduler.stats().preemptions:
        world.turn()
    (victim,) = [s for s in world.scheduler._live.values() if s.lives]
    assert victim.request_id == 1, "neither the first nor the newest"
    assert victim.slot == 1, "it keeps its slot"
    world.drain()


def test_the_victim_is_not_one_whose_deadline_is_near():
    world = World(Shape(num_blocks=9, max_running=3, step_tokens=48))
    world.add(request(0, [1] * 8, 12))
    world.add(request(1, [2] * 4, 12, deadline_s=world.clock.now_s() + 0.5))
    world.add(request(2, [3] * 11, 12))
    while not world.scheduler.stats().preemptions:
        world.turn()
    assert [s.request_id for s in world.scheduler._live.values() if s.lives] == [2]
    world.drain()


def test_the_victim_is_the_least_important():
    world = World(Shape(num_blocks=9, max_running=3, step_tokens=48, policy="priority"))
    world.add(request(0, [1] * 8, 12, priority=3))
    world.add(request(1, [2] * 4, 12))
    world.add(request(2, [3] * 11, 12))
    while not world.scheduler.stats().preemptions:
        world.turn()
    assert [s.request_id for s in world.scheduler._live.values() if s.lives] == [0]
    world.drain()


def test_shared_blocks_make_a_cheap_victim():
    world = World(Shape(num_blocks=10, max_running=3, step_tokens=64))
    world.add(request(0, LONG[:16], 16))
    steps(world, 1)
    world.add(request(1, [8] * 7, 16))
    world.add(request(2, [*LONG[:16], 1], 16))
    while not world.scheduler.stats().preemptions:
        world.turn()
    assert [s.request_id for s in world.scheduler._live.values() if s.lives] == [2], "16 of its tokens stay"
    world.drain()


def test_one_request_may_fill_the_whole_pool():
    world = World(Shape(num_blocks=4, max_model_len=48))
    for request_id in range(3):
        world.add(request(request_id, [request_id] * 5, 12))
    world.drain()
    with pytest.raises(ContextLengthExceeded, match="holds 16 tokens") as caught:
        world.add(request(9, [1] * 5, 13))
    assert caught.value.field == "max_tokens"


def test_prompt_logprobs_come_once_in_spite_of_preemption():
    world = World(Shape(num_blocks=9, max_running=3, step_tokens=7))
    for request_id in range(3):
        world.add(request(request_id, [request_id] * 9, 12, prompt_logprobs=1, logprobs=1))
    world.drain()
    assert world.scheduler.stats().preemptions > 0


def test_who_was_stopped_in_flight_waits_for_its_token():
    world = World(Shape(run_ahead=True))
    world.add(request(0, [1, 2, 3], 9))
    world.add(request(1, [4, 5, 6], 9))
    world.plan()
    sequence = world.scheduler._live[0]
    world.scheduler._residents.preempt(sequence, world.scheduler._applied_tokens(sequence))
    assert list(rows(world.plan())) == [1], "the host does not know its fourth token yet"
    world.apply()
    assert rows(world.plan()) == {1: 1, 0: 4}
    world.drain()


def test_a_block_that_a_step_in_flight_completes_is_not_kept():
    world = World(Shape(run_ahead=True))
    world.add(request(0, [1, 2, 3], 9))
    world.plan()
    world.plan()
    world.abort(0)
    assert world.scheduler.stats().blocks_cached == 0, "nobody knows its fourth token"
    world.drain()


def test_work_in_flight_of_a_slot_s_old_owner_does_not_count_for_the_new():
    world = World(Shape(run_ahead=True, max_running=1))
    world.add(request(0, LONG, 1))
    world.drain()
    world.add(request(1, [7, 7], 9))
    world.plan()
    world.abort(1)
    world.add(request(2, LONG, 9))
    world.plan()
    assert world.scheduler._applied_tokens(world.scheduler._live[2]) == 16
    world.drain()


def test_nobody_is_admitted_into_room_that_a_running_prompt_needs():
    world = World(Shape(num_blocks=10, step_tokens=8))
    world.add(request(0, [1] * 20, 4))
    world.add(request(1, [2] * 20, 4))
    world.turn()
    assert world.scheduler.stats().running == 1
    world.drain()
    assert world.scheduler.stats().preemptions == 0


# --- order -----------------------------------------------------------------------------------------------------------


def test_fcfs_ignores_priorities_and_priority_does_not():
    order = {}
    for policy in ("fcfs", "priority"):
        world = World(Shape(policy=policy, max_running=1))
        for request_id, priority in enumerate([5, 1, 3, 1]):
            world.add(request(request_id, [1, 2], 2, priority=priority))
        order[policy] = []
        while world.scheduler.has_work:
            world.turn()
            order[policy] += [i for i, s in world.stories.items() if s.finish and i not in order[policy]]
    assert order == {"fcfs": [0, 1, 2, 3], "priority": [1, 3, 2, 0]}


def test_low_priority_does_not_starve():
    world = World(Shape(policy="priority", max_running=2))
    for request_id in range(1, 30):
        world.add(request(request_id, [2], 2, priority=0))
    world.add(request(0, [1], 2, priority=100))
    for request_id in range(30, 100):
        world.add(request(request_id, [2], 2, priority=0))
        world.add(request(1000 + request_id, [2], 2, priority=0))
        steps(world, 2)
        if world.stories[0].finish:
            break
    assert 40 < request_id < 99, "those before it first, and then not after all that came later"
    assert world.scheduler.stats().waiting > 20


@pytest.mark.parametrize(("policy", "gain"), [("priority", 1), ("fcfs", 0)])
def test_one_that_is_stopped_again_and_again_becomes_more_important(policy, gain):
    world = World(Shape(policy=policy))
    world.add(request(0, [1, 2], 20, priority=5))
    world.turn()
    sequence = world.scheduler._live[0]
    before = sequence.order[0]
    for _ in range(MERCY_EVERY):
        assert sequence.order[0] == before
        world.scheduler._residents.preempt(sequence, world.scheduler._applied_tokens(sequence))
        world.turn()
    assert sequence.order[0] == before - gain
    world.drain()


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_ahead", [False, True])
def test_ends_by_length_stop_token_and_context(run_ahead):
    world = World(Shape(run_ahead=run_ahead))
    said = expected(request(0, [1, 2], 10, seed=0))
    world.add(request(0, [1, 2], 10, seed=0))
    world.add(request(1, [1, 2], 10, seed=0, stop_token_ids=[said[4]]))
    world.add(request(2, [1, 2], 10, seed=0, stop_token_ids=[97, -1, 10**12, said[4]]))
    world.add(request(3, [1, 2], 10, seed=0, stop_token_ids=[said[0], said[4]], min_tokens=3))
    world.add(request(4, [1] * 44, 4))
    world.add(request(5, [1, 2], 1))
    world.drain()
    reasons = [world.stories[i].finish.reason for i in (0, 1, 2, 4, 5)]
    assert reasons == ["length", "stop", "stop", "length", "length"]
    assert world.stories[1].finish.stop_token == world.stories[2].finish.stop_token == said[4]
    assert len(world.stories[3].tokens) >= 4


def test_more_stop_ids_than_columns():
    said = expected(request(0, [1, 2], 10, seed=0))
    others = [token for token in range(VOCAB) if token not in said]
    world = World(Shape())
    world.add(request(0, [1, 2], 10, seed=0, stop_token_ids=[*others[:6], said[5]]))
    world.drain()
    assert world.stories[0].tokens == said[: said.index(said[5]) + 1]


def test_min_tokens_hold_even_where_every_token_is_a_stop():
    world = World(Shape())
    world.add(request(0, [1, 2], 10, stop_token_ids=list(range(VOCAB)), min_tokens=3))
    world.drain()
    assert len(world.stories[0].tokens) == 4


def test_an_aborted_request_is_not_in_the_next_step():
    world = World(Shape(run_ahead=True))
    world.add(request(0, [1, 2], 20))
    world.add(request(1, [3, 4], 20))
    steps(world, 3)
    world.abort(0, 77)
    while world.pending:
        world.apply()
    assert list(rows(world.plan())) == [1]
    world.drain()


def test_a_slot_changes_hands_while_its_old_row_is_in_flight():
    world = World(Shape(run_ahead=True, max_running=1))
    world.add(request(0, [1, 2], 20))
    world.add(request(1, [3, 4], 3))
    world.plan()
    world.abort(0)
    plan = world.plan()
    assert [start.slot for start in plan.starts] == [0]
    world.drain()
    assert world.stories[0].tokens == []


def test_run_ahead_computes_no_token_too_many():
    world = World(Shape(run_ahead=True))
    world.add(request(0, [1, 2], 5))
    computed = 0
    while world.scheduler.has_work:
        plan = world.plan()
        computed += plan.total_tokens if plan else 0
        if plan is None or len(world.pending) == 2:
            world.apply()
    assert computed == 2 + 4


def test_deadlines_end_the_queued_and_the_running():
    world = World(Shape(max_running=1))
    world.add(request(0, [1, 2], 20, deadline_s=105.0))
    world.add(request(1, [3, 4], 20, deadline_s=103.0))
    world.add(request(2, [5, 6], 2))
    steps(world, 2)
    world.expire()
    assert world.stories[1].finish is None
    world.clock.advance(4)
    world.expire()
    assert world.stories[1].finish.reason is FinishReason.DEADLINE
    world.clock.advance(1)
    world.expire()
    assert world.stories[0].finish.reason is FinishReason.DEADLINE
    world.drain()


def test_a_request_that_leaves_itself_no_token_is_refused_and_another_one_fails():
    world = World(Shape())
    world.add(request(0, [1, 2], 8, allowed_token_ids=[5]))
    world.add(request(1, [3, 4], 8))
    for row in (0, 0):
        world.plan(failing_row=row, failure=NOTHING_TO_DRAW)
        world.apply()
    world.drain()
    assert world.stories[0].finish.reason is FinishReason.REFUSED
    assert world.stories[1].finish.reason is FinishReason.ERROR


def test_only_the_failed_request_ends():
    world = World(Shape())
    world.add(request(0, [1, 2], 8))
    world.add(request(1, [3, 4], 8))
    steps(world, 2)
    world.plan(failing_row=0)
    world.drain()
    assert world.stories[0].finish.reason is FinishReason.ERROR
    assert world.stories[1].finish.reason is FinishReason.LENGTH


# --- the door --------------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_with_a_measured_estimate():
    world = World(Shape(max_running=2, max_waiting=1))
    for request_id in range(3):
        world.add(request(request_id, [1], 1))
    with pytest.raises(Overloaded) as caught:
        world.add(request(3, [1], 1))
    assert caught.value.retry_after_s == 1.0, "nothing has been measured yet"
    for request_id in range(10, 30):
        world.clock.advance(0.5)
        while world.scheduler.has_work:
            world.turn()
        world.add(request(request_id, [1], 1))
    world.add(request(98, [1], 1))
    world.add(request(99, [1], 1))
    for expected_s in (0.45, 0.9, 1.4):
        with pytest.raises(Overloaded) as caught:
            world.add(request(100, [1], 1))
        assert caught.value.retry_after_s == pytest.approx(expected_s, rel=0.15)
    world.drain()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (request(0, []), "prompt"),
        (request(0, [1, VOCAB]), "prompt"),
        (request(0, [-1]), "prompt"),
        (request(0, [1] * 48), "prompt"),
        (request(0, [1] * 40, 9), "max_tokens"),
        (request(0, [1], 0), "max_tokens"),
    ],
)
def test_what_can_never_run_is_refused_naming_the_field(wrong: EngineRequest, field: str):
    world = World(Shape())
    with pytest.raises(RequestError) as caught:
        world.add(wrong)
    assert caught.value.field == field
    assert not world.scheduler.has_work


def test_an_id_that_runs_is_refused():
    world = World(Shape())
    world.add(request(0, [1]))
    with pytest.raises(RequestError, match="running already"):
        world.scheduler.add(request(0, [1]))


def test_nothing_grows_with_the_number_of_requests():
    world = World(Shape(max_running=4, num_blocks=24))
    for request_id in range(400):
        world.add(request(request_id, LONG[: 3 + request_id % 17], 3, deadline_s=1e9))
        if request_id % 3 == 0:
            world.abort(request_id)
        steps(world, 3)
    world.drain()
    scheduler, residents = world.scheduler, world.scheduler._residents
    assert (len(scheduler._live), len(residents.promises), residents.promises.promised) == (0, 0, 0)
    assert len(scheduler._deadlines) <= 64
    assert len(residents.waiting._by_arrival) <= 64
    assert len(residents.waiting._by_order) <= 64
    assert len(residents.cache.published) == scheduler.stats().blocks_cached


def test_statistics():
    world = World(Shape(max_running=2))
    for request_id in range(3):
        world.add(request(request_id, LONG, 3))
    steps(world, 1)
    stats = world.scheduler.stats()
    assert (stats.running, stats.waiting, stats.blocks_total) == (1, 2, 16)
    assert stats.blocks_used == 4, "sixteen of the twenty tokens fit the step"
    world.drain()
    stats = world.scheduler.stats()
    assert (stats.output_tokens, stats.prompt_tokens) == (9, 20 + 2 * 4)
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (60, 32)
    assert stats.steps == world.steps


def test_the_host_needs_no_torch():
    code = "import sys, tradewind.scheduler, tradewind.runner.fake; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
