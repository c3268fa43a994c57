"""The loop, inline, with the fake runner."""

import numpy as np
import pytest
from fake_engine import VOCAB, runner_info

from tradewind.base.clock import ManualClock
from tradewind.base.errors import Overloaded
from tradewind.config import CacheConfig, Config, SchedulerConfig, from_flat
from tradewind.engine.core import Engine, join, to_message
from tradewind.protocol.request import EngineRequest, FinishReason, RowSampling
from tradewind.runner.fake import FakeRunner, Faults, StepCost, alone
from tradewind.scheduler.scheduler import Scheduler


class SpyRunner:
    """Notes what is issued, and whose result is waited for."""

    def __init__(self, runner):
        self._runner = runner
        self.events = []

    @property
    def info(self):
        return self._runner.info

    @property
    def compiled_kernels(self):
        return self._runner.compiled_kernels

    @property
    def eager_steps(self):
        return self._runner.eager_steps

    def tidy(self):
        self.events.append(("tidy", -1))
        return len(self.events) < 2

    def run(self, plan):
        self.events.append(("issue", plan.step))
        pending = self._runner.run(plan)
        result = pending.result

        def noted():
            self.events.append(("result", plan.step))
            return result()

        pending.result = noted
        return pending

    def close(self):
        self.events.append(("close", -1))


def engine_of(faults=None, cost=None, run_ahead=None, clock=None, **info):
    clock = clock or ManualClock()
    sleep = getattr(clock, "advance", None)
    runner = FakeRunner(runner_info(**info), cost, clock=clock, sleep=sleep, faults=faults or Faults())
    spy = SpyRunner(runner)
    return Engine(Scheduler(runner.info, SchedulerConfig(), CacheConfig(), clock), spy, clock, run_ahead), spy


def request(request_id=0, max_tokens=4, **fields):
    sampling = RowSampling(seed=request_id + 1)
    prompt = [request_id % VOCAB, 1, 2]
    return EngineRequest(
        request_id=request_id, prompt_tokens=prompt, sampling=sampling, max_tokens=max_tokens, **fields
    )


def run_out(engine):
    """Step until nothing is left: tokens and finishes by request, and how many steps it took."""
    tokens, finished, turns = {}, {}, 0
    while engine.has_work:
        turns += 1
        for updates in engine.step():
            for request_id, token in zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True):
                tokens.setdefault(request_id, []).append(token)
            finished.update({finish.request_id: finish for finish in updates.finished})
    return tokens, finished, turns


@pytest.mark.parametrize("asynchronous", [False, True])
def test_tokens_are_those_of_each_request_alone(asynchronous):
    engine, _ = engine_of(asynchronous=asynchronous)
    requests = [request(index, max_tokens=3 + index) for index in range(10)]
    for one in requests:
        engine.add(one)
    tokens, finished, _ = run_out(engine)
    assert tokens == {one.request_id: alone(one, VOCAB) for one in requests}
    assert all(finish.reason is FinishReason.LENGTH for finish in finished.values())
    engine.scheduler.check()


def test_a_synchronous_runner_has_each_result_applied_in_the_turn_that_issued_it():
    engine, spy = engine_of()
    engine.add(request(max_tokens=3))
    assert [len(engine.step()) for _ in range(3)] == [1, 1, 1]
    assert not engine.has_work
    assert spy.events == [(what, step) for step in range(3) for what in ("issue", "result")]


def test_an_asynchronous_runner_gets_the_next_step_before_the_last_result_is_awaited():
    engine, spy = engine_of(asynchronous=True)
    engine.add(request(max_tokens=3))
    _, _, turns = run_out(engine)
    assert turns == 4
    steps = [("issue", 0), ("issue", 1), ("result", 0), ("issue", 2), ("result", 1), ("result", 2)]
    assert spy.events == steps


def test_run_ahead_can_be_switched_off():
    engine, spy = engine_of(asynchronous=True, run_ahead=False)
    engine.add(request(max_tokens=2))
    run_out(engine)
    assert spy.events == [("issue", 0), ("result", 0), ("issue", 1), ("result", 1)]


def test_time_is_accounted_to_host_and_device():
    engine, _ = engine_of(cost=StepCost(base_s=0.5))
    engine.add(request(max_tokens=4))
    run_out(engine)
    engine.account_host(0.25)
    stats = engine.stats()
    assert (stats.steps, stats.output_tokens) == (4, 4)
    assert stats.device_s == pytest.approx(2.0)
    assert stats.host_s == pytest.approx(0.25)  # the manual clock stands still meanwhile


def test_aborted_requests_say_nothing_more_and_leave_their_blocks():
    engine, _ = engine_of(asynchronous=True)
    engine.add(request(0, max_tokens=50))
    engine.add(request(1, max_tokens=5))
    for _ in range(3):
        engine.step()
    engine.abort([0, 77])
    tokens, finished, _ = run_out(engine)
    assert 0 not in tokens
    assert set(finished) == {1}
    assert engine.stats().blocks_used == 0
    engine.scheduler.check()


def test_settle_forgets_what_is_in_flight():
    engine, _ = engine_of(asynchronous=True)
    engine.add(request(max_tokens=50))
    engine.step()
    engine.abort([0])
    assert engine.has_work
    engine.settle()
    assert not engine.has_work
    assert engine.stats().blocks_used == 0


def test_a_deadline_ends_its_request_alone():
    clock = ManualClock()
    engine, _ = engine_of(clock=clock, cost=StepCost(base_s=1.0))
    engine.add(request(0, max_tokens=100, deadline_s=2.5))
    engine.add(request(1, max_tokens=6))
    _, finished, _ = run_out(engine)
    assert finished[0].reason is FinishReason.DEADLINE
    assert finished[1].reason is FinishReason.LENGTH


def test_a_row_that_fails_ends_its_request_alone():
    engine, _ = engine_of(faults=Faults(failed_slots={2: {0: "bad row"}}))
    engine.add(request(0, max_tokens=6))
    engine.add(request(1, max_tokens=6))
    tokens, finished, _ = run_out(engine)
    reasons = sorted((finish.reason, finish.message) for finish in finished.values())
    assert reasons == [(FinishReason.ERROR, "bad row"), (FinishReason.LENGTH, "")]
    healthy = next(key for key, finish in finished.items() if finish.reason is FinishReason.LENGTH)
    assert tokens[healthy] == alone(request(healthy, max_tokens=6), VOCAB)


def test_a_step_that_raises_takes_the_engine_with_it():
    engine, _ = engine_of(faults=Faults(broken_steps={1: RuntimeError("fire")}))
    engine.add(request(max_tokens=6))
    engine.step()
    with pytest.raises(RuntimeError, match="fire"):
        engine.step()


def test_the_bounded_queue_refuses():
    config = from_flat({"max_waiting": 0, "max_running": 1})
    assert isinstance(config, Config)
    engine = join(FakeRunner(runner_info()), config)
    assert engine.max_running == 1
    engine.add(request(0))
    with pytest.raises(Overloaded):
        engine.add(request(1))


def test_updates_cross_as_columns():
    engine, _ = engine_of()
    for index in range(3):
        engine.add(request(index))
    (updates,) = engine.step()
    message = to_message(updates)
    assert np.frombuffer(message.request_ids, np.int64).tolist() == [0, 1, 2]
    assert np.frombuffer(message.tokens, np.int32).tolist() == updates.tokens.tolist()
    assert [admission.request_id for admission in message.admitted] == [0, 1, 2]


def test_what_boot_left_undone_is_done_while_there_is_no_work():
    engine, spy = engine_of()
    assert engine.tidy()
    assert not engine.tidy()
    assert spy.events == [("tidy", -1)] * 2
