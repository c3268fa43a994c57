"""Grammars in the engine's loop: masks in time, with and without run-ahead, whatever happens to the sequences."""

import itertools
import threading
import time
from typing import Any

import llguidance
import msgspec
import numpy as np
import pytest
from fake_engine import runner_info

from tradewind.base.clock import SystemClock
from tradewind.base.errors import RequestError
from tradewind.config import CacheConfig, SchedulerConfig
from tradewind.engine.constraints import Constraints
from tradewind.engine.core import Engine
from tradewind.engine.late_masks import InThreads, InTurns
from tradewind.grammar import matcher
from tradewind.grammar.matcher import Matcher, Vocabulary
from tradewind.grammar.source import HEAD
from tradewind.protocol.request import EngineRequest, FinishReason, RowGrammar, RowSampling
from tradewind.runner.fake import FakeRunner, StepCost, alone
from tradewind.scheduler.scheduler import Scheduler

EOS_ID = 256
THINK_ID = 257
VOCAB = 258
VOCABULARY = Vocabulary([bytes([byte]) for byte in range(256)] + [b"<eos>", b"<think>"], [EOS_ID, THINK_ID], [EOS_ID])
WORDS = HEAD + "start: /[a-z]+(-[a-z]+){20}/"
FIXED = HEAD + 'start: "exactly this"'


def engine(ahead: bool, load: Any = lambda: VOCABULARY, cost_s: float = 0.0, **info: Any) -> Engine:
    values = runner_info(vocab_size=VOCAB, asynchronous=ahead, **info)
    runner = FakeRunner(values, StepCost(base_s=cost_s))
    clock = SystemClock()
    scheduler = Scheduler(values, SchedulerConfig(), CacheConfig(block_tokens=values.block_tokens), clock)
    return Engine(scheduler, runner, clock, constraints=Constraints(load, InThreads() if ahead else InTurns(), VOCAB))


def request(number: int, grammar: str | None = None, *, reasoning: Any = (None, None), **changes: Any) -> EngineRequest:
    values: dict[str, Any] = {
        "request_id": number,
        "prompt_tokens": [1 + number % 7, 2, 3],
        "sampling": RowSampling(seed=number),
        "max_tokens": 60,
        "stop_token_ids": [EOS_ID],
        "grammar": None if grammar is None else RowGrammar(grammar, *reasoning),
    }
    return EngineRequest(**{**values, **changes})


def run(made: Engine) -> tuple[dict[int, list[int]], dict[int, Any]]:
    """Until nothing is left: tokens and finishes by id."""
    tokens: dict[int, list[int]] = {}
    finishes: dict[int, Any] = {}
    end_s = time.monotonic() + 30
    while made.has_work:
        assert time.monotonic() < end_s
        for updates in made.step():
            for request_id, token in zip(updates.request_ids.tolist(), updates.tokens.tolist(), strict=True):
                assert request_id not in finishes
                tokens.setdefault(request_id, []).append(token)
            for finish in updates.finished:
                assert finish.request_id not in finishes
                finishes[finish.request_id] = finish
        made.scheduler.check()
    return tokens, finishes


def text(tokens: list[int]) -> str:
    return bytes(token for token in tokens if token < 256).decode()


@pytest.mark.parametrize("ahead", [False, True])
def test_constrained_and_plain_sequences_share_steps(ahead: bool) -> None:
    made = engine(ahead)
    plain = [request(number) for number in range(0, 8, 2)]
    for one, other in zip(plain, range(1, 9, 2), strict=True):
        made.add(one)
        made.add(request(other, FIXED if other % 4 == 1 else WORDS))
    tokens, finishes = run(made)
    for one in plain:
        assert tokens[one.request_id] == alone(one, VOCAB)
    for number in range(1, 9, 2):
        assert finishes[number].reason in (FinishReason.STOP, FinishReason.LENGTH)
        if number % 4 == 1:
            assert text(tokens[number]) == "exactly this"
            assert EOS_ID not in tokens[number]  # it ends as soon as nothing more can be said
        else:
            assert set(text(tokens[number])) <= set("abcdefghijklmnopqrstuvwxyz-")


@pytest.mark.parametrize("ahead", [False, True])
def test_masks_come_before_a_forward_that_is_waited_for_and_beside_one_that_is_not(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    run_step, compute = FakeRunner.run, Constraints.masks
    monkeypatch.setattr(FakeRunner, "run", lambda *given: events.append("forward") or run_step(*given))
    monkeypatch.setattr(Constraints, "masks", lambda *given: events.append("masks") or compute(*given))
    made = engine(ahead)
    made.add(request(1, WORDS, max_tokens=3))
    run(made)
    assert events == (["forward", "masks"] if ahead else ["masks", "forward"]) * 3


def test_run_ahead_changes_nothing() -> None:
    answers = []
    for ahead in (False, True):
        made = engine(ahead, cost_s=0.0005)
        for number in range(12):
            made.add(request(number, (WORDS, FIXED, None)[number % 3]))
        answers.append(run(made))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("ahead", [False, True])
def test_preemption(ahead: bool) -> None:
    """So few blocks that sequences are stopped and computed again; their grammar goes on where it was."""
    roomy, tight = engine(ahead), engine(ahead, num_blocks=24, max_model_len=96)
    for made in (roomy, tight):
        for number in range(6):
            made.add(request(number, WORDS, max_tokens=50))
    assert run(roomy) == run(tight)
    assert tight.stats().preemptions
    assert not roomy.stats().preemptions


@pytest.mark.parametrize("ahead", [False, True])
def test_a_grammar_sleeps_while_the_model_reasons(ahead: bool) -> None:
    made = engine(ahead)
    made.add(request(1, FIXED, reasoning=(None, THINK_ID), max_tokens=400, stop_token_ids=[]))
    tokens, finishes = run(made)
    assert finishes[1].reason is FinishReason.STOP
    before = list(itertools.takewhile(lambda token: token != THINK_ID, tokens[1]))
    assert before
    assert text(tokens[1][len(before) + 1 :]) == "exactly this"


@pytest.mark.parametrize("ahead", [False, True])
def test_an_answer_may_begin_with_reasoning_and_need_not(ahead: bool) -> None:
    made = engine(ahead)
    for number in range(8):
        made.add(request(number, FIXED, reasoning=(ord("A"), THINK_ID), max_tokens=450, stop_token_ids=[]))
    tokens, finishes = run(made)
    assert {tokens[number][0] for number in range(8)} == {ord("A"), ord("e")}
    for number in range(8):
        assert finishes[number].reason in (FinishReason.STOP, FinishReason.LENGTH)
        if finishes[number].reason is FinishReason.STOP:
            assert bytes(token for token in tokens[number] if token < 128).decode().endswith("exactly this")


def budgeted(number: int, tokens: int | None, begin: int | None = None, text: str | None = None) -> EngineRequest:
    """A sequence whose reasoning has a budget; without `begin`, it has begun in the prompt."""
    made = request(number, max_tokens=70 if text else 60, stop_token_ids=[])
    return msgspec.structs.replace(made, grammar=RowGrammar(text, begin, THINK_ID, tokens))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 2, 3, 40, 59, 60, 1000])
def test_reasoning_ends_when_its_budget_is_spent(ahead: bool, budget: int) -> None:
    made = engine(ahead)
    asked = [budgeted(number, budget) for number in range(12)]
    for one in asked:
        made.add(one)
        made.add(request(100 + one.request_id))
    tokens, _ = run(made)
    for one in asked:
        free, said = alone(one, VOCAB), tokens[one.request_id]
        assert len(said) == 60
        if THINK_ID in free[:budget] or budget >= 60:
            assert said == free
        else:
            assert said[: budget + 1] == [*free[:budget], THINK_ID]
            assert budget == 59 or set(said[budget + 1 :]) != {THINK_ID}  # what follows is free
        other = request(100 + one.request_id)
        assert tokens[other.request_id] == alone(other, VOCAB)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 2, 30])
def test_reasoning_that_an_answer_may_begin_with_has_a_budget_too(ahead: bool, budget: int) -> None:
    made = engine(ahead)
    asked = [budgeted(number, budget) for number in range(8)]
    begins = {one.request_id: alone(one, VOCAB)[0] if one.request_id % 2 else EOS_ID for one in asked}
    asked = [budgeted(number, budget, begins[number]) for number in range(8)]
    for one in asked:
        made.add(one)
    tokens, _ = run(made)
    for one in asked:
        free, said = alone(one, VOCAB), tokens[one.request_id]
        if one.request_id % 2 and THINK_ID not in free[: budget + 1]:
            assert said[: budget + 2] == [*free[: budget + 1], THINK_ID]
        else:
            assert said == free


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 7])
def test_a_grammar_begins_when_the_budget_is_spent(ahead: bool, budget: int) -> None:
    made = engine(ahead)
    for number in range(4):
        made.add(budgeted(number, budget, text=FIXED))
    tokens, finishes = run(made)
    for number in range(4):
        assert finishes[number].reason is FinishReason.STOP
        end = tokens[number].index(THINK_ID)
        assert end <= budget
        assert text(tokens[number][end + 1 :]) == "exactly this"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_budget_costs_masks_only_where_it_ends(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[int] = []
    masks = Constraints.masks

    def counted(self: Constraints, request_ids: Any) -> Any:
        masked.extend(request_ids.tolist())
        return masks(self, request_ids)

    monkeypatch.setattr(Constraints, "masks", counted)
    made = engine(ahead, load=lambda: pytest.fail("a budget alone needs no vocabulary"))
    for number in range(4):
        made.add(budgeted(number, 30 if number else 1000))
    tokens, _ = run(made)
    assert [tokens[number].index(THINK_ID) for number in (1, 2, 3)] == [1, 30, 30]
    assert (masked.count(0), masked.count(1)) == (0, 0)
    assert all(1 <= masked.count(number) <= 3 for number in (2, 3))
    assert not made._constraints._open


def test_an_end_that_is_ignored_elsewhere_ends_a_grammar() -> None:
    made = engine(False)
    made.add(request(1, HEAD + "start: /[a-c]+/", max_tokens=200, stop_token_ids=[]))
    _, finishes = run(made)
    assert finishes[1].reason is FinishReason.STOP


@pytest.mark.parametrize("ahead", [False, True])
def test_an_answer_that_is_complete_with_its_last_token_was_not_cut(ahead: bool) -> None:
    made = engine(ahead)
    for number, tokens in ((1, 12), (2, 11)):  # each letter is one
        made.add(request(number, FIXED, max_tokens=tokens))
    made.add(request(3, HEAD + "start: /[a-c]{5,}/", max_tokens=5))  # it might go on
    said, finishes = run(made)
    assert [text(said[number]) for number in (1, 2)] == ["exactly this", "exactly thi"]
    reasons = [finishes[number].reason for number in (1, 2, 3)]
    assert reasons == [FinishReason.STOP, FinishReason.LENGTH, FinishReason.LENGTH]


def test_a_grammar_that_becomes_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = llguidance.LLParserLimits(max_lexer_states=300, verbose_errors=False)
    monkeypatch.setattr(matcher, "new_limits", lambda: limits)
    made = engine(False)
    made.add(request(1, HEAD + "start: /([a-z ]*[aeiou ][a-z ]{14}){30,60}x/", max_tokens=400))
    made.add(request(2))
    tokens, finishes = run(made)
    assert finishes[1].reason is FinishReason.REFUSED
    assert finishes[1].message.startswith("structured_outputs: its grammar cannot go on: ")
    assert tokens[2] == alone(request(2), VOCAB)


def test_aborts_and_deadlines() -> None:
    made = engine(True, cost_s=0.001)
    made.add(request(1, WORDS))
    made.add(request(2, WORDS, deadline_s=time.monotonic() + 0.02))
    made.add(request(3, WORDS))
    made.add(request(4, 'start: "never built"'))
    made.abort([4])
    early = {finish.request_id: finish for _ in range(5) for updates in made.step() for finish in updates.finished}
    made.abort([3])
    _, late = run(made)
    finishes = early | late
    assert set(finishes) == {1, 2}
    assert finishes[2].reason is FinishReason.DEADLINE


def test_no_stream_waits_for_a_grammar_to_be_built() -> None:
    plain_ended = threading.Event()

    def slow() -> Vocabulary:
        assert plain_ended.wait(10)
        return VOCABULARY

    made = engine(False, slow)
    made.add(request(1, FIXED))
    made.add(request(2))
    order = []
    while made.has_work:
        order += [finish.request_id for updates in made.step() for finish in updates.finished]
        if 2 in order:
            plain_ended.set()
    assert order == [2, 1]


def test_waiting_for_a_grammar_takes_no_cpu() -> None:
    def slow() -> Vocabulary:
        time.sleep(0.3)
        return VOCABULARY

    made = engine(False, slow)
    made.add(request(1, FIXED))
    started_s = time.thread_time()
    run(made)
    assert time.thread_time() - started_s < 0.1


def test_a_grammar_that_cannot_be_built_ends_its_sequence_alone() -> None:
    made = engine(False)
    made.add(request(1, "start: nothing"))
    made.add(request(2, FIXED))
    tokens, finishes = run(made)
    assert finishes[1].reason is FinishReason.REFUSED
    assert "grammar" in finishes[1].message
    assert text(tokens[2]) == "exactly this"


@pytest.mark.parametrize("ahead", [False, True])
def test_a_vocabulary_that_cannot_be_loaded_ends_the_sequences_that_need_it_alone(ahead: bool) -> None:
    faults = [OSError("no such file")]

    def load() -> Vocabulary:
        if faults:
            raise faults.pop()
        return VOCABULARY

    made = engine(ahead, load)
    made.add(request(1, FIXED))
    made.add(request(2))
    tokens, finishes = run(made)
    assert finishes[1].reason is FinishReason.ERROR
    assert "no such file" in finishes[1].message
    assert tokens[2] == alone(request(2), VOCAB)
    made.add(request(3, FIXED))
    tokens, finishes = run(made)
    assert text(tokens[3]) == "exactly this"


def test_too_many_are_refused_one_by_one() -> None:
    made = engine(False, max_running=2)
    made.scheduler._config = SchedulerConfig(max_waiting=1)
    for number in range(6):
        made.add(request(number, FIXED))
    made._constraints.wait(10.0)  # for the one grammar of all
    tokens, finishes = run(made)
    assert sorted(tokens) == [0, 1, 2]
    assert [finishes[number].reason for number in (3, 4, 5)] == [FinishReason.ERROR] * 3


def test_without_a_tokenizer_there_are_no_grammars() -> None:
    values = runner_info(vocab_size=VOCAB)
    clock = SystemClock()
    scheduler = Scheduler(values, SchedulerConfig(), CacheConfig(block_tokens=4), clock)
    with pytest.raises(RequestError):
        Engine(scheduler, FakeRunner(values), clock).add(request(1, FIXED))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("num_blocks", [512, 24])
def test_costly_masks_change_nothing(ahead: bool, num_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sequence with a grammar waits for each of its masks, with preemptions and without."""
    answers = []
    for costly_s in (1.0, -1.0):
        monkeypatch.setattr(matcher, "COSTLY_S", costly_s)
        made = engine(ahead, cost_s=0.0002, num_blocks=num_blocks, max_model_len=96)
        for number in range(9):
            made.add(request(number, (WORDS, FIXED, None)[number % 3], max_tokens=40))
        made.add(request(9, FIXED, reasoning=(ord("A"), THINK_ID), max_tokens=60, stop_token_ids=[]))
        for number in range(10, 16):
            made.add(budgeted(number, 5 * (number - 9), text=FIXED if number % 2 else None))
        answers.append(run(made))
        assert bool(made.stats().preemptions) == (num_blocks == 24)
    assert answers[0] == answers[1]


@pytest.mark.parametrize("ahead", [False, True])
def test_only_the_sequence_with_costly_masks_waits_for_them(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = Matcher.prepare

    def slow(self: Matcher) -> None:
        time.sleep(0.05)
        prepare(self)
        self.is_costly = True

    monkeypatch.setattr(Matcher, "prepare", slow)
    made = engine(ahead)
    made.add(request(1, WORDS, max_tokens=10))
    made._constraints.wait(5.0)
    made.add(request(2, max_tokens=60, stop_token_ids=[]))
    said = []
    while made.has_work:
        said += [request_id for updates in made.step() for request_id in updates.request_ids.tolist()]
    assert (said.count(1), said.count(2)) == (10, 60)
    assert said[: len(said) - said[::-1].index(2)].count(1) < 6


def test_costly_masks_take_a_share_of_the_time() -> None:
    class Slow:
        def prepare(self) -> None:
            time.sleep(0.005)

    late = InTurns()
    for number in range(100):
        late.begin(number, Slow())  # type: ignore[arg-type]
    ready, end_s = [], time.monotonic() + 0.2
    while time.monotonic() < end_s:
        ready += late.ready()
    assert ready == list(range(len(ready)))
    assert 0 < len(ready) < 7
    late.wait(0.0)  # nothing else is to be done
    assert late.ready()[0] == len(ready)


def test_a_mask_that_takes_long_is_noticed() -> None:
    class Costly:
        is_error = staticmethod(lambda: False)

        def unsafe_compute_mask_ptr(self, _address: int, _nbytes: int) -> None:
            end_s = time.thread_time() + 2 * matcher.COSTLY_S
            while time.thread_time() < end_s:
                pass

    cheap, costly, late = VOCABULARY.begin(WORDS), VOCABULARY.begin(WORDS), VOCABULARY.begin(WORDS)
    costly.library = Costly()
    VOCABULARY.masks([cheap, costly, None, late])
    assert [one.is_costly for one in (cheap, costly, late)] == [False, True, False]


def test_waiting_for_a_costly_mask_takes_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher, "prepare", lambda self: (time.sleep(0.05), setattr(self, "is_costly", True)))
    made = engine(False)
    made.add(request(1, WORDS, max_tokens=6))
    started_s = time.thread_time()
    run(made)
    assert time.thread_time() - started_s < 0.1


def test_masks_of_nobody_allow_everything() -> None:
    constraints = Constraints(lambda: VOCABULARY, InTurns(), VOCAB)
    constraints.begin(request(1, FIXED))
    constraints.wait(5.0)
    constraints.ready()
    bits_MW = constraints.masks(np.array([1, 99], np.int64))[0].bits_MW
    assert bits_MW.shape == (2, -(-VOCAB // 32))
    assert (bits_MW[1] == -1).all()
    assert [token for token in range(VOCAB) if bits_MW[0, token // 32] >> (token % 32) & 1] == [ord("e")]
    constraints.close()
