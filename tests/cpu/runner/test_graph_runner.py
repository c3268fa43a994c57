"""The GPU's runner, with the CPU as its device: buckets, inputs made there, recorded steps, memory that runs out."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cpu.runner.driving import (
    GREEDY,
    Heard,
    Limits,
    Session,
    constrained_tokens,
    make_runner,
    masked_requests,
    request,
)
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt
from tradewind.config import ModelConfig
from tradewind.kernels import host_copy, mask_logits, sample, step_inputs
from tradewind.kernels.ops import choose_ops
from tradewind.kernels.pages import KVPool
from tradewind.models.decoder import Model
from tradewind.models.registry import load_model
from tradewind.protocol.request import EngineRequest, FinishReason, RowGrammar, RowSampling
from tradewind.protocol.result import StepResult
from tradewind.runner import graph_runner, graphs
from tradewind.runner.buckets import coarse_first, fitting, row_buckets, token_buckets, wanted_graphs
from tradewind.runner.counts import OutputCounts
from tradewind.runner.graph_runner import GraphRunner, StepOps
from tradewind.runner.graphs import GraphBudget, Graphs
from tradewind.runner.pending import Issued
from tradewind.runner.step_columns import IN_FLIGHT, StepColumns

CPU = torch.device("cpu")
LIMITS = Limits(max_running=9, step_tokens=70)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of tiny operations: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS["llama-gqa2-rope-llama3"])
    # Only the reference takes rows without tokens, as Triton's attention does.
    return load_model(directory, ModelConfig(model=str(directory)), ops=choose_ops("cpu", torch.float32, "reference"))


def make_graph_runner(model: Model, limits: Limits = LIMITS, budget: GraphBudget | None = None) -> GraphRunner:
    info = replace(make_runner(model, limits).info, asynchronous=True)
    shape = model.spec.pool_shape(limits.num_blocks + 1, limits.block_tokens)
    pool = KVPool(torch.full(shape.as_tuple(model.spec.dtype), torch.nan, dtype=model.spec.dtype))
    ops = StepOps(
        step_inputs.choose(CPU).run, sample.choose_draw(CPU).run, mask_logits.choose(CPU).run, host_copy.choose(CPU).run
    )
    runner = GraphRunner(model, pool, info, ops, None if budget is None else Graphs(CPU, budget))
    runner.record()
    return runner


NOTHING = StepResult(0, np.zeros(0, np.int32), np.zeros(0, np.int32))
PLENTY = GraphBudget(seconds=1000.0, nbytes=1 << 60)
SETTINGS = [
    GREEDY,
    RowSampling(seed=2, temperature=1.0),
    RowSampling(seed=3, temperature=0.8, top_p=0.9, top_k=20),
    RowSampling(seed=5, temperature=1.2, min_p=0.05),
    RowSampling(seed=4, temperature=0.0, repetition_penalty=1.3, presence_penalty=0.5),
    RowSampling(seed=6, temperature=0.0, logprobs=2, prompt_logprobs=1),
]


def requests(settings: list[RowSampling], vocab: int) -> list[EngineRequest]:
    return [
        request(index, random_prompt(vocab, 3 + 31 * index % 90, seed=index), 4 + index * 5 % 23, sampling)
        for index, sampling in enumerate(settings)
    ]


def heard(runner: object, work: list[EngineRequest], *, run_ahead: bool = True) -> dict[int, Heard]:
    session = Session(runner, run_ahead=run_ahead)
    session.add(work)
    return session.finish()


@pytest.mark.parametrize("budget", [None, PLENTY, GraphBudget(0.0, 1)], ids=["eager", "graphs", "none affordable"])
def test_tokens_are_those_of_the_other_runner(model: Model, budget: GraphBudget | None) -> None:
    work = requests(SETTINGS * 3, model.spec.vocab)
    expected = heard(make_runner(model, LIMITS), work, run_ahead=False)
    runner = make_graph_runner(model, budget=budget)
    actual = heard(runner, work)
    assert {key: one.tokens for key, one in actual.items()} == {key: one.tokens for key, one in expected.items()}
    for key, one in expected.items():
        assert [row.token_ids for row in actual[key].logprobs] == [row.token_ids for row in one.logprobs]
        assert len(actual[key].prompt_logprobs) == len(one.prompt_logprobs)
    report = runner.report
    if budget is PLENTY:
        assert report.recorded == report.wanted > 10
        assert report.eager == 0 < report.replays
        assert runner.eager_steps == 0
    elif budget is not None:
        assert (report.recorded, report.replays) == (0, 0)
        assert runner.eager_steps > 0


def test_a_rehearsal_does_what_is_recorded_in_a_layer_of_each_kind(model: Model) -> None:
    windows = (None, 5, None, 5, 7)
    first = model.layers[0]
    layers = tuple(replace(first, attention=replace(first.attention, window=window)) for window in windows)
    assert [layer.attention.window for layer in replace(model, layers=layers).thin.layers] == [None, 5, 7]
    assert len(model.thin.layers) == 1 < len(model.layers)
    runner = make_graph_runner(model, budget=PLENTY)
    before = (runner.report.recorded, runner.report.replays)
    works: list[tuple[str, int, Model]] = []
    work_of = runner._work

    def noted(kind: str, size: int, of: Model) -> Callable[[], Tensor]:
        works.append((kind, size, of))
        return work_of(kind, size, of)

    runner._work = noted
    runner.rehearse()
    assert [work[:2] for work in works] == wanted_graphs(LIMITS.max_running, LIMITS.step_tokens)
    assert all(len(of.layers) == 1 for *_, of in works)
    assert (runner.report.recorded, runner.report.replays) == before
    eager = make_graph_runner(model)
    eager._work = noted
    works.clear()
    eager.rehearse()
    assert not works


def test_what_there_was_no_time_for_is_recorded_when_idle(model: Model) -> None:
    """Until then such steps run without a graph; the tokens are the same before, meanwhile and after."""
    work = requests(SETTINGS[:4] * 3, model.spec.vocab)
    expected = {key: one.tokens for key, one in heard(make_runner(model, LIMITS), work).items()}
    runner = make_graph_runner(model, budget=GraphBudget(seconds=0.0, nbytes=1 << 60))
    report = runner.report
    assert (report.recorded, report.postponed) == (0, report.wanted)
    loaded = report.wanted
    tidied = 0
    while True:
        assert {key: one.tokens for key, one in heard(runner, work).items()} == expected
        if not report.postponed:
            break
        for _ in range(loaded // 3):
            tidied += 1
            if not runner.tidy():
                break
    assert tidied == report.recorded == report.wanted
    assert not runner.tidy()
    before = runner.eager_steps
    heard(runner, work)
    assert runner.eager_steps == before > 0


def test_what_there_is_no_memory_for_is_never_recorded(model: Model) -> None:
    runner = make_graph_runner(model, budget=GraphBudget(seconds=1000.0, nbytes=0))
    assert (runner.report.recorded, runner.report.postponed) == (0, 0)
    assert not runner.tidy()
    late = make_graph_runner(model, budget=GraphBudget(seconds=0.0, nbytes=1))
    late.report.nbytes = 1  # what others were recorded with
    assert not late.tidy()
    assert (late.report.recorded, late.report.postponed) == (0, 0)


@pytest.mark.parametrize("kind", ["plain", "decode"])
def test_what_was_not_recorded_is_rounded_up(model: Model, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(graph_runner, "wanted_graphs", lambda *_sizes: [("mixed", 70), (kind, 4), ("head", 4)])
    work = requests(SETTINGS[:4], model.spec.vocab)
    runner = make_graph_runner(model, budget=PLENTY)
    assert {key: one.tokens for key, one in heard(runner, work).items()} == {
        key: one.tokens for key, one in heard(make_runner(model, LIMITS), work).items()
    }
    assert runner.report.recorded == 3
    assert runner.report.eager == 0


@pytest.mark.parametrize("most", [1, 2, 7, 33, 100, 256, 2048, 8192, 9000])
def test_buckets(most: int) -> None:
    for buckets, waste in ((row_buckets(most), 8), (token_buckets(most), 32)):
        assert buckets[-1] == most
        assert list(buckets) == sorted(set(buckets))
        assert sorted(coarse_first(buckets)) == list(buckets)
        assert coarse_first(buckets)[0] == most
        for size in range(1, most + 1):
            fit = fitting(buckets, size)
            assert fit is not None
            assert fit >= size
            assert fit - size < max(waste, size // 4), (size, fit)
        assert fitting(buckets, most + 1) is None
    assert all(b - a <= max(64, b // 8) for a, b in pairwise(row_buckets(2048)))


@pytest.mark.parametrize("budget", [None, PLENTY], ids=["eager", "graphs"])
def test_masks_are_kept_to(model: Model, budget: GraphBudget | None) -> None:
    work = masked_requests(model.spec.vocab)
    answers = constrained_tokens(make_graph_runner(model, budget=budget), work)
    assert answers == constrained_tokens(make_runner(model, LIMITS), work)
    plain = constrained_tokens(make_runner(model, LIMITS), [msgspec.structs.replace(one, grammar=None) for one in work])
    letters = {ord("-"), *range(ord("a"), ord("z") + 1), *range(128, model.spec.vocab)}
    for one in work:
        said = answers[one.request_id]
        assert said
        if one.grammar is not None:
            assert set(said) <= letters
            assert said != plain[one.request_id]
        else:
            assert said == plain[one.request_id]


def test_rows_that_are_masked_for_a_while(model: Model) -> None:
    """Budgets of reasoning, which need masks where they end and not before or after, beside grammars."""
    work = masked_requests(model.spec.vocab)
    end, plain = 5, constrained_tokens(make_runner(model, LIMITS), work)
    limited = [
        one if one.grammar else msgspec.structs.replace(one, grammar=RowGrammar(None, None, end, one.request_id % 5))
        for one in work
    ]
    answers = constrained_tokens(make_graph_runner(model, budget=PLENTY), limited)
    assert answers == constrained_tokens(make_runner(model, LIMITS), limited)
    for one in work:
        said, free, budget = answers[one.request_id], plain[one.request_id], one.request_id % 5
        if one.grammar is not None or end in free[:budget] or len(free) <= budget:
            assert said == free
        else:
            assert said[: budget + 1] == [*free[:budget], end]


def test_memory_that_runs_out_for_masks_sheds_their_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_arguments: object) -> object:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(graph_runner, "masking", no_memory)
    work = [msgspec.structs.replace(one, sampling=GREEDY) for one in masked_requests(model.spec.vocab)]
    answers = constrained_tokens(make_graph_runner(model, budget=PLENTY), work)
    alone = constrained_tokens(make_runner(model, LIMITS), [one for one in work if one.grammar is None])
    assert answers == {one.request_id: alone.get(one.request_id, []) for one in work}


def test_memory_that_runs_out_sheds_the_rows_that_asked_for_more(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(1000))

    def draw(*arguments: object) -> object:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("no memory")
        return original(*arguments)

    original = graph_runner.draw
    monkeypatch.setattr(graph_runner, "draw", draw)
    work = requests(SETTINGS, model.spec.vocab)
    answers = heard(make_graph_runner(model, budget=PLENTY), work)
    expected = heard(make_runner(model, LIMITS), work)
    shed = [key for key, one in answers.items() if one.reason == FinishReason.ERROR]
    assert shed
    assert all("out of memory" in answers[key].message for key in shed)
    assert {SETTINGS[key].logprobs or SETTINGS[key].presence_penalty for key in shed} <= {2, 0.5}
    for key in set(answers) - set(shed):
        assert answers[key].tokens == expected[key].tokens


def test_what_ran_out_of_memory_is_free_when_it_is_tried_with_less(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def draw(logits_NV: Tensor, *_arguments: object) -> object:
        held.append(weakref.ref(logits_NV))
        raise torch.OutOfMemoryError("no memory")

    runner = make_graph_runner(model)
    head = runner._head
    monkeypatch.setattr(graph_runner, "draw", draw)
    monkeypatch.setattr(runner, "_head", lambda rows: alive.append(held[-1]() is not None) or head(rows))
    heard(runner, requests([RowSampling(seed=6, temperature=0.0, logprobs=2)], model.spec.vocab))
    assert alive
    assert not any(alive)


@pytest.mark.parametrize("settings", [[GREEDY] * 12, SETTINGS * 2], ids=["plain", "all kinds"])
def test_memory_that_runs_out_again_sheds_the_step(
    model: Model, monkeypatch: pytest.MonkeyPatch, settings: list[RowSampling]
) -> None:
    runner, calls, logits = make_graph_runner(model), iter(range(1000)), Model.logits

    def failing(*arguments: Any) -> Tensor:
        if next(calls) in (2, 3):
            raise torch.OutOfMemoryError("no memory")
        return logits(*arguments)

    monkeypatch.setattr(Model, "logits", failing)
    work = requests(settings, model.spec.vocab)
    check_shed(model, work, heard(runner, work))


def check_shed(model: Model, work: list[EngineRequest], answers: dict[int, Heard]) -> None:
    """Some failed, and all others are as ever."""
    expected = heard(make_runner(model, LIMITS), work)
    reasons = [one.reason for one in answers.values()]
    assert 0 < reasons.count(FinishReason.ERROR) < len(reasons)
    for key, one in answers.items():
        if one.reason != FinishReason.ERROR:
            assert one.tokens == expected[key].tokens


def test_a_slot_whose_counts_had_no_memory_has_new_owners(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    ones_like, calls = torch.ones_like, iter(range(1000))

    def failing(*arguments: Any, **options: Any) -> Tensor:
        if next(calls) == 0:
            raise torch.OutOfMemoryError("no memory")
        return ones_like(*arguments, **options)

    monkeypatch.setattr(torch, "ones_like", failing)
    penalty = RowSampling(seed=4, temperature=0.0, presence_penalty=0.5)
    work = requests([penalty] * 3 + [GREEDY] * 12, model.spec.vocab)
    check_shed(model, work, heard(make_graph_runner(model, budget=PLENTY), work))


@pytest.mark.parametrize("seconds", [1000.0, 0.0], ids=["at boot", "when idle"])
def test_graphs_that_there_is_no_memory_for_are_done_without(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    work = requests(SETTINGS * 3, model.spec.vocab)
    expected = {key: one.tokens for key, one in heard(make_runner(model, LIMITS), work).items()}
    free = iter([100, 100, 99, 100, *[99] * 1000])
    monkeypatch.setattr(graphs, "_free_bytes", lambda _device: next(free))
    runner = make_graph_runner(model, budget=GraphBudget(seconds, 1 << 60, most_bytes=100))
    while runner.tidy():
        pass
    # The second fits when what torch keeps is given back, the third does not.
    assert (runner.report.recorded, runner.report.postponed) == (2, 0)
    assert "no memory for more graphs" in caplog.text
    assert {key: one.tokens for key, one in heard(runner, work).items()} == expected
    assert not runner.tidy()
    assert runner.report.recorded == 2


@pytest.mark.parametrize("length", [None, 1], ids=["prompts", "one token"])
def test_memory_that_runs_out_as_requests_begin_sheds_these(
    model: Model, monkeypatch: pytest.MonkeyPatch, length: int | None
) -> None:
    def no_memory(*_arguments: object) -> object:
        raise torch.OutOfMemoryError("no memory")

    settings = SETTINGS * 2 if length is None else [one for one in SETTINGS if not one.prompt_logprobs]
    work = requests(settings, model.spec.vocab)
    work = [msgspec.structs.replace(one, prompt_tokens=one.prompt_tokens[:length]) for one in work]
    expected = heard(make_runner(model, LIMITS), work)
    monkeypatch.setattr(OutputCounts, "begin", no_memory)
    answers = heard(make_graph_runner(model, budget=PLENTY), work)
    for one in work:
        answer = answers[one.request_id]
        if one.sampling.presence_penalty:
            assert (answer.reason, "out of memory" in answer.message) == (FinishReason.ERROR, True)
        else:
            assert answer.tokens == expected[one.request_id].tokens


@pytest.mark.parametrize("where", [StepColumns, Model])
def test_memory_that_runs_out_in_a_forward_sheds_the_step(
    model: Model, monkeypatch: pytest.MonkeyPatch, where: type
) -> None:
    """Also before the device has copied the step's columns: the next step finds its own."""
    runner = make_graph_runner(model)
    name = "send" if where is StepColumns else "forward"
    work_of, calls = getattr(where, name), iter(range(1000))

    def failing(*arguments: object) -> object:
        if next(calls) == 1:
            raise torch.OutOfMemoryError("no memory")
        return work_of(*arguments)

    monkeypatch.setattr(where, name, failing)
    work = [msgspec.structs.replace(one, max_tokens=9) for one in requests([GREEDY] * 12, model.spec.vocab)]
    check_shed(model, work, heard(runner, work))


def test_a_step_is_one_graph_where_all_rows_are_plain_and_draw(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_graph_runner(model, budget=PLENTY)
    assert runner._graphs is not None
    replay, kinds = runner._graphs.replay, Counter[str]()

    def noted(key: tuple[str, int]) -> object:
        kinds[key[0]] += 1
        return replay(key)

    monkeypatch.setattr(runner._graphs, "replay", noted)
    heard(runner, requests([GREEDY, RowSampling(seed=1, temperature=0.7, top_k=5)], model.spec.vocab))
    assert kinds["mixed"] == kinds["head"] > 0
    assert kinds["plain"] > kinds["decode"] == 0
    kinds.clear()
    heard(runner, requests([GREEDY, RowSampling(seed=1, temperature=0.0, logprobs=1)], model.spec.vocab))
    assert kinds["decode"] > 0


class Event:
    """Stands for a device's event, which comes when somebody waits for it."""

    def __init__(self) -> None:
        self.is_over = False

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.is_over

    def synchronize(self) -> None:
        self.is_over = True

    def elapsed_time(self, _later: object) -> float:
        return 2.0


def issued() -> Issued:
    step = Issued(Event(), Event(), lambda _masks: lambda _device_s: NOTHING)
    step.mask(None)
    return step


def test_what_the_host_is_told_is_read_before_it_is_overwritten(model: Model) -> None:
    runner = make_graph_runner(model)
    steps = [issued() for _ in range(IN_FLIGHT + 1)]
    turns = []
    for step in steps:
        turns.append(runner._take_turn())
        runner._open[turns[-1]] = step
    assert turns[0] == turns[-1]
    assert sorted(turns[1:]) == list(range(IN_FLIGHT))
    assert [step.is_under_way for step in steps] == [False, *[True] * IN_FLIGHT]


def test_a_step_is_under_way_until_it_is_over() -> None:
    waits = Issued(Event(), Event(), lambda _masks: lambda _device_s: NOTHING)
    assert not waits.is_under_way  # it has yet to be issued
    waits.mask(None)
    assert waits.is_under_way
    assert waits.result() is NOTHING
    assert not waits.is_under_way
