"""The fake runner must refuse plans that are not well formed, and keep time."""

import numpy as np
import pytest
from world import Shape, expected, request

from tradewind.base.clock import ManualClock
from tradewind.protocol.plan import RowStart, StepPlan
from tradewind.runner.fake import FakeRunner, Faults, StepCost


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def start(slot: int, *tokens: int, seed: int = 0) -> RowStart:
    return RowStart(slot, ints(*tokens), len(tokens), request(0, [1], seed=seed).sampling, ())


def plan(step: int, rows: list[tuple[int, int, int, bool]], starts=(), blocks=()) -> StepPlan:
    """`rows`: (slot, computed, new, sample); `blocks`: (slot, start, id)."""
    slots, computed, new, sample = zip(*rows, strict=True)
    columns = [ints(*column) for column in zip(*blocks, strict=True)] if blocks else [ints(), ints(), ints()]
    return StepPlan(step, ints(*slots), ints(*computed), ints(*new), np.array(sample), tuple(starts), *columns)


FIRST = plan(0, [(0, 0, 3, True)], [start(0, 1, 2, 3)], [(0, 0, 5)])


def test_it_says_what_the_request_gets_alone():
    runner = FakeRunner(Shape().info())
    wanted = request(0, [1, 2, 3], 3, seed=0)
    said = [
        int(runner.run(step).result().tokens[0])
        for step in (FIRST, plan(1, [(0, 3, 1, True)]), plan(2, [(0, 4, 1, True)], blocks=[(0, 1, 7)]))
    ]
    assert said == expected(wanted)


def test_other_tokens_for_other_seeds_and_other_prompts():
    one = expected(request(0, [1, 2, 3], 12, seed=0))
    assert one != expected(request(0, [1, 2, 3], 12, seed=1))
    assert one != expected(request(0, [2, 1, 3], 12, seed=0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (plan(1, [(0, 3, 1, True), (0, 3, 1, True)]), "twice"),
        (plan(1, [(0, 2, 1, True)]), "skip tokens"),
        (plan(1, [(0, 3, 2, True)], blocks=[(0, 1, 2)]), "nobody knows"),
        (plan(1, [(0, 3, 1, False)]), "samples exactly when"),
        (plan(1, [(0, 3, 1, True)], blocks=[(0, 2, 2)]), "entry 2 after 1"),
        (plan(1, [(0, 3, 1, True)], blocks=[(0, 1, 16)]), "no block 16"),
        (plan(1, [(0, 3, 0, True)]), "without tokens"),
        (plan(1, [(0, 3, 1, True)], blocks=[(1, 0, 2)]), "not in the plan"),
        (plan(1, [(0, 3, 1, True), (1, 0, 16, True)], [start(1, *[1] * 16)]), "17 tokens in one step"),
        (plan(1, [(1, 0, 5, True)], [start(1, *[1] * 5)], [(1, 0, 2)]), "no block for"),
        (plan(2, [(0, 3, 1, True)]), "2, 1"),
    ],
)
def test_it_refuses_bad_plans(bad, message):
    runner = FakeRunner(Shape().info())
    runner.run(FIRST)
    with pytest.raises(AssertionError, match=message):
        runner.run(bad)


def test_stale_content_shows():
    runner = FakeRunner(Shape().info())
    runner.run(FIRST)
    stale = plan(1, [(1, 4, 1, True)], [start(1, 9, 9, 9, 9, 9)], [(1, 0, 5), (1, 1, 6)])
    assert runner.run(stale).result().tokens.tolist() != expected(request(0, [9] * 5, 1, seed=0))


def test_an_asynchronous_device_takes_its_time_in_order():
    clock = ManualClock()
    runner = FakeRunner(
        Shape(run_ahead=True).info(),
        StepCost(base_s=1.0, per_token_s=0.5, per_context_token_s=0.25),
        clock=clock,
        sleep=clock.advance,
    )
    first, second = runner.run(FIRST), runner.run(plan(1, [(0, 3, 1, True)]))
    assert clock.now_s() == 0
    assert not first.done()
    assert first.result().device_s == 1 + 3 * 0.5 + 3 * 0.25
    assert clock.now_s() == 3.25
    assert first.done()
    assert not second.done()
    second.result()
    assert clock.now_s() == 3.25 + 1 + 0.5 + 4 * 0.25


def test_a_synchronous_device_is_done_when_run_returns():
    clock = ManualClock()
    runner = FakeRunner(Shape().info(), StepCost(base_s=2.0), clock=clock, sleep=clock.advance)
    assert runner.run(FIRST).done()
    assert clock.now_s() == 2


def test_faults_on_demand():
    clock = ManualClock()
    faults = Faults(
        failed_slots={0: {0: "no", 3: "absent"}}, broken_steps={1: OSError("gone")}, hung_steps=frozenset({2})
    )
    runner = FakeRunner(Shape().info(), clock=clock, sleep=clock.advance, faults=faults)
    assert runner.run(FIRST).result().failed == {0: "no"}
    with pytest.raises(OSError, match="gone"):
        runner.run(plan(1, [(0, 3, 1, True)])).result()
    hung = runner.run(plan(2, [(0, 3, 1, True)]))
    clock.advance(1e6)
    assert not hung.done()


def test_the_quick_device_depends_on_the_request_only():
    said = []
    for slot in (0, 3):
        runner = FakeRunner(Shape().info(), verify=False)
        runner.run(plan(0, [(slot, 0, 3, True)], [start(slot, 1, 2, 3, seed=7)], [(slot, 0, 5)]))
        said.append(runner.run(plan(1, [(slot, 3, 1, True)])).result().tokens.tolist())
    assert said[0] == said[1]
