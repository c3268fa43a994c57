"""Tens of thousands of random steps: no block leaked or owned twice, nobody starved, everybody's tokens as if alone."""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from world import VOCAB, Shape, World, request

from tradewind.base.errors import RequestError
from tradewind.protocol.cost import ContextCost

CONTEXT_COSTS = [
    ContextCost(),
    ContextCost(((0.02, None),), least_tokens=4.5),
    ContextCost(((0.3, None), (0.5, 6)), least_tokens=2),
    ContextCost(((8.0, 5),), least_tokens=30),
]
PREFIXES = [[], [1] * 9, [1] * 9 + [2] * 8, [3] * 20, [4, 5] * 7]


class SchedulerMachine(RuleBasedStateMachine):
    """Hypothesis looks for the shortest way to break the scheduler."""

    @initialize(
        block_tokens=st.sampled_from([1, 2, 4, 7]),
        num_blocks=st.integers(4, 24),
        max_running=st.integers(1, 6),
        step_tokens=st.integers(1, 24),
        policy=st.sampled_from(["fcfs", "priority"]),
        prefix_caching=st.booleans(),
        run_ahead=st.booleans(),
        context_cost=st.sampled_from(CONTEXT_COSTS),
    )
    def begin(self, **sizes: object) -> None:
        self.world = World(Shape(**sizes))  # type: ignore[arg-type]

    @rule(
        prefix=st.sampled_from(PREFIXES),
        own=st.lists(st.integers(0, 4), min_size=1, max_size=6),
        max_tokens=st.integers(1, 10),
        stops=st.sampled_from([[], [3], [1, 2, 3, 4, 5, 6]]),
        salt=st.sampled_from(["", "tenant"]),
        priority=st.integers(0, 2),
        prompt_logprobs=st.sampled_from([None, None, None, 1]),
        logprobs=st.sampled_from([None, None, 2]),
        min_tokens=st.sampled_from([0, 0, 2]),
        patience_s=st.sampled_from([None, None, 5.0]),
    )
    def arrive(self, prefix, own, max_tokens, stops, salt, priority, prompt_logprobs, logprobs, min_tokens, patience_s):
        world, prompt = self.world, prefix + own
        wanted = request(
            len(world.stories),
            prompt,
            max_tokens,
            stop_token_ids=stops,
            cache_salt=salt,
            priority=priority,
            prompt_logprobs=prompt_logprobs,
            logprobs=logprobs,
            min_tokens=min(min_tokens, max_tokens),
            deadline_s=None if patience_s is None else world.clock.now_s() + patience_s,
        )
        if world.shape.fits(len(prompt), max_tokens):
            world.add(wanted)
        else:
            with pytest.raises(RequestError):
                world.add(wanted)

    @rule()
    def plan(self):
        self.world.plan()

    @rule()
    def apply(self):
        self.world.apply()

    @rule(turns=st.integers(1, 12))
    def run(self, turns):
        for _ in range(turns):
            self.world.turn()

    @rule(row=st.integers(0, 5))
    def fail(self, row):
        self.world.plan(failing_row=row)

    @precondition(lambda self: self.world.stories)
    @rule(data=st.data())
    def abort(self, data):
        self.world.abort(data.draw(st.sampled_from(sorted(self.world.stories))))

    @rule(seconds=st.sampled_from([0.5, 4.0]))
    def wait(self, seconds):
        self.world.clock.advance(seconds)
        self.world.expire()

    def teardown(self):
        if hasattr(self, "world"):
            self.world.drain()


def test_state_machine():
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def random_shape(chance: random.Random) -> Shape:
    return Shape(
        block_tokens=chance.choice([1, 2, 3, 4, 8]),
        num_blocks=chance.choice([6, 10, 16, 32]),
        max_running=chance.choice([2, 4, 8, 16]),
        step_tokens=chance.choice([3, 8, 16, 40]),
        policy=chance.choice(["fcfs", "priority"]),
        prefix_caching=chance.random() < 0.8,
        run_ahead=chance.random() < 0.6,
        context_cost=chance.choice(CONTEXT_COSTS),
    )


def random_arrival(chance: random.Random, world: World, request_id: int) -> None:
    room = min(world.shape.max_model_len, world.shape.num_blocks * world.shape.block_tokens)
    prompt = chance.choice(PREFIXES)[: room // 2] + [chance.randrange(3) for _ in range(chance.randint(1, 8))]
    prompt = prompt[: room - 1]
    max_tokens = min(chance.choice([1, 3, 8, 20, 30]), room - len(prompt))
    wanted = request(
        request_id,
        prompt,
        max_tokens,
        seed=chance.randrange(5),
        stop_token_ids=chance.choice([[], [], [VOCAB - 1], [1, 2], [1, 3, 5, 7, 9, 11]]),
        cache_salt=chance.choice(["", "", "", "tenant"]),
        priority=chance.choice([0, 0, 1, 5]),
        prompt_logprobs=1 if chance.random() < 0.08 else None,
        logprobs=1 if chance.random() < 0.08 else None,
        min_tokens=chance.choice([0, 0, 0, 1, 3]) % (max_tokens + 1),
        deadline_s=world.clock.now_s() + chance.randint(1, 40) if chance.random() < 0.1 else None,
    )
    world.add(wanted)


def random_life(seed: int, steps: int) -> World:
    """One world of random shape under random load, of `steps` operations and until all is done."""
    chance = random.Random(seed)
    world = World(random_shape(chance))
    load = chance.choice([0.03, 0.1, 0.3])
    for request_id in range(steps):
        if chance.random() < load:
            random_arrival(chance, world, request_id)
        action = chance.random()
        if action < 0.02 and world.stories:
            world.abort(*chance.sample(sorted(world.stories)[-12:], k=min(2, len(world.stories))))
        elif action < 0.04:
            world.clock.advance(chance.random() * 4)
            world.expire()
        elif action < 0.05:
            world.plan(failing_row=chance.randrange(16))
        elif action < 0.35:
            world.plan()
        elif action < 0.55:
            world.apply()
        else:
            world.turn()
    world.drain()
    return world


@pytest.mark.parametrize("part", range(4))
def test_long_random_lives(part):
    worlds = [random_life(1000 * part + seed, 250) for seed in range(25)]
    stats = [world.scheduler.stats() for world in worlds]
    # The load must reach what it is meant to test.
    assert sum(world.steps for world in worlds) > 2_500
    assert sum(stat.preemptions for stat in stats) > 20
    assert sum(stat.prefix_hit_tokens for stat in stats) > 1_000
    assert sum(len(world.failures) for world in worlds) > 10
