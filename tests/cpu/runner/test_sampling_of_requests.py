"""What requests ask of sampling, through the whole runner: against the reference, which sees each row alone."""

import dataclasses
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from tests.cpu.runner.driving import (
    GREEDY,
    Limits,
    Session,
    constrained_tokens,
    load,
    make_runner,
    masked_requests,
    request,
)
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt, transformers_logits
from tradewind.kernels.sample import reference
from tradewind.kernels.sample.random import stream_keys, uniforms
from tradewind.models.decoder import Model
from tradewind.protocol.request import EngineRequest, RowSampling
from tradewind.runner.counts import OutputCounts

SEED = 2**63 + 12345


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model", VARIANTS["qwen3-gqa7-tied"])


@pytest.fixture(scope="module")
def model(directory: Path) -> Model:
    return load(directory)


@pytest.fixture(scope="module")
def prompt(model: Model) -> list[int]:
    return random_prompt(model.spec.vocab, 30, seed=8)


def flat(**settings: object) -> RowSampling:
    """At a high temperature, so that what a setting does shows."""
    return RowSampling(**{"seed": SEED, "temperature": 3.0} | settings)  # type: ignore[arg-type]


ASKED = {
    "plain": flat(),
    "greedy": RowSampling(seed=SEED, temperature=0.0),
    "filters": flat(top_k=30, top_p=0.9, min_p=0.01),
    "repetition": flat(repetition_penalty=1.8),
    "repetition, greedy": RowSampling(seed=SEED, temperature=0.0, repetition_penalty=2.5),
    "presence": flat(presence_penalty=1.9),
    "frequency": flat(frequency_penalty=-1.5),
    "all penalties": flat(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=1.0),
    "bias": flat(logit_bias={5: 9.0, 17: 8.5, 40: -100.0}),
    "allowed": flat(allowed_token_ids=[3, 9, 60, 61, 62, 200]),
    "allowed and bias": flat(allowed_token_ids=[3, 9, 60], logit_bias={9: 4.0, 100: 50.0}),
    "bad words": flat(
        temperature=50.0,
        allowed_token_ids=[6, 7, 8, 9],
        bad_word_ids=[[7], [8, 9], [9, 9], [6, 6], [8, 8, 8], [9, 8, 6, 9, 6]],
    ),
    "min_tokens": flat(allowed_token_ids=[1, 2, 3], min_tokens=20),
    "everything": flat(
        repetition_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        logit_bias={11: 3.0, 12: -2.0},
        allowed_token_ids=list(range(2, 60)),
        bad_word_ids=[[11], [12, 13]],
        min_tokens=10,
        top_p=0.95,
        logprobs=3,
    ),
}
STOPS = [1, 2]


def ask(request_id: int, prompt: list[int], sampling: RowSampling, max_tokens: int = 40) -> EngineRequest:
    return request(request_id, prompt, max_tokens, sampling, stop_token_ids=STOPS)


def reference_token(logits_V: torch.Tensor, prompt: list[int], said: list[int], sampling: RowSampling) -> set[int]:
    """The token that the reference draws next, and its neighbours if rounding may decide between them."""
    adjusted_V = reference.adjust_row(logits_V, sampling, prompt, said, STOPS)
    if sampling.temperature == 0:
        return set(torch.where(adjusted_V >= adjusted_V.max() - 1e-4)[0].tolist())
    keys = stream_keys(np.array([sampling.seed], np.uint64))
    uniform = float(uniforms(keys, np.array([len(prompt) + len(said)]))[0])
    p_V = reference.kept(adjusted_V, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    running_V = p_V.cumsum(-1) / p_V.sum()
    return {
        int(torch.searchsorted(running_V, torch.tensor(uniform + slack, dtype=running_V.dtype), right=True))
        for slack in (-1e-4, 0.0, 1e-4)
    }


@pytest.mark.parametrize("name", ASKED)
def test_each_token_is_the_references(directory: Path, model: Model, prompt: list[int], name: str) -> None:
    sampling = ASKED[name]
    said = Session(make_runner(model), run_ahead=True).tokens([ask(1, prompt, sampling)])[1]
    assert len(said) >= min(sampling.min_tokens + 1, 40)
    logits_TV = transformers_logits(directory, prompt + said)
    for index, token in enumerate(said):
        possible = reference_token(logits_TV[len(prompt) + index - 1], prompt, said[:index], sampling)
        assert token in possible, f"token {index}"


@pytest.mark.parametrize("run_ahead", [False, True])
def test_tokens_are_the_same_alone_and_among_31_others(model: Model, prompt: list[int], run_ahead: bool) -> None:
    names = (list(ASKED) * 3)[:32]
    requests = [ask(index, prompt[: 10 + index % 20], ASKED[name]) for index, name in enumerate(names)]
    together = Session(make_runner(model, Limits(step_tokens=100)), run_ahead=run_ahead).tokens(requests)
    for own in requests[: len(ASKED)]:
        assert Session(make_runner(model)).tokens([own])[own.request_id] == together[own.request_id]


def test_a_preempted_request_keeps_its_penalties(model: Model, prompt: list[int]) -> None:
    asked = [request(index, prompt[index:], 60, ASKED["all penalties"]) for index in range(4)]
    roomy = Session(make_runner(model)).tokens(asked)
    tight = Session(make_runner(model, Limits(num_blocks=24)), run_ahead=True, prefix_caching=False)
    assert tight.tokens(asked) == roomy
    assert tight.scheduler.stats().preemptions > 0


def test_seeds_differ_and_repeat(model: Model, prompt: list[int]) -> None:
    asked = [ask(index, prompt, flat(seed=seed)) for index, seed in enumerate([7, 7, 8])]
    tokens = Session(make_runner(model)).tokens(asked)
    assert tokens[0] == tokens[1] != tokens[2]


def test_a_slot_forgets_its_last_owner(model: Model, prompt: list[int]) -> None:
    """One slot: each request follows one with other settings, and says what it says alone."""
    limits = Limits(max_running=1)
    session = Session(make_runner(model, limits))
    for index, sampling in enumerate(reversed(ASKED.values())):
        own = ask(index, prompt, sampling)
        session.add([own])
        fresh = Session(make_runner(model, limits))
        fresh.add([own])
        assert session.finish()[index] == fresh.finish()[index]


def test_rows_of_counts_are_used_again() -> None:
    counts = OutputCounts(10, torch.device("cpu"))
    said = torch.tensor([7, 3, 3, 5], dtype=torch.int32)
    for slot in range(9):
        counts.begin(slot, said, prompt_tokens=1)
    size = counts.allocated_rows
    for slot in range(9):
        counts.drop(slot)
        counts.begin(slot + 20, said[:2], prompt_tokens=1)
    assert counts.allocated_rows == size
    tokens_NL = torch.tensor([[3, 5, 7]] * 2)
    assert counts.of(np.array([20, 0]), tokens_NL).tolist() == [[1, 0, 0], [0, 0, 0]]
    counts.count(np.array([20, 0, 21]), np.array([2, 2, 1]), torch.tensor([5, 5, 5]))  # the last one is an old position
    assert counts.of(np.array([20, 21]), tokens_NL).tolist() == [[1, 1, 0], [1, 0, 0]]


# --- logprobs --------------------------------------------------------------------------------------------------------


def test_logprobs_are_of_the_raw_logits(directory: Path, model: Model, prompt: list[int]) -> None:
    for name, count in (("everything", 3), ("plain", 0), ("greedy", 5)):
        sampling = RowSampling(
            **{f: getattr(ASKED[name], f) for f in RowSampling.__struct_fields__} | {"logprobs": count}
        )
        session = Session(make_runner(model))
        session.add([ask(1, prompt, sampling, 12), ask(2, prompt[:9], flat(logprobs=1), 12), ask(3, prompt, GREEDY, 5)])
        heard = session.finish()[1]
        assert len(heard.logprobs) == len(heard.tokens)
        logits_TV = transformers_logits(directory, prompt + heard.tokens)
        for index, (token, shown) in enumerate(zip(heard.tokens, heard.logprobs, strict=True)):
            expected_V, rank = reference.logprobs(logits_TV[len(prompt) + index - 1], token)
            assert (shown.token_ids[0], shown.rank) == (token, rank)
            assert len(shown.token_ids) == 1 + count
            assert shown.token_ids[1:] == expected_V.sort(descending=True).indices[:count].tolist()
            assert shown.logprobs == pytest.approx(expected_V[shown.token_ids].tolist(), abs=1e-4)
        assert session.heard[3].logprobs == []


@pytest.mark.parametrize("chunk", [1, 7, 13, 512])
def test_prompt_logprobs_cover_each_position_once(directory: Path, model: Model, prompt: list[int], chunk: int) -> None:
    sampling = RowSampling(seed=0, temperature=0.0, prompt_logprobs=2, logprobs=0)
    runner = make_runner(model, Limits(step_tokens=max(chunk, 3)))
    session = Session(runner, run_ahead=True)
    session.add([ask(1, prompt, sampling, 3), ask(2, prompt[:5], GREEDY, 30)])
    parts = session.finish()[1].prompt_logprobs
    assert parts[0].start == 1
    starts = [part.start for part in parts] + [len(prompt)]
    assert all(part.start + len(part.positions) == after for part, after in zip(parts, starts[1:], strict=True))
    logits_TV = transformers_logits(directory, prompt)
    for position, shown in enumerate((shown for part in parts for shown in part.positions), start=1):
        expected_V, rank = reference.logprobs(logits_TV[position - 1], prompt[position])
        assert (shown.token_ids[0], shown.rank) == (prompt[position], rank)
        assert shown.token_ids[1:] == expected_V.sort(descending=True).indices[:2].tolist()
        assert shown.logprobs == pytest.approx(expected_V[shown.token_ids].tolist(), abs=1e-4)


def test_prompt_logprobs_of_a_preempted_prompt_come_once(model: Model, prompt: list[int]) -> None:
    sampling = RowSampling(seed=0, temperature=0.0, prompt_logprobs=0)
    session = Session(make_runner(model, Limits(num_blocks=24)), prefix_caching=False)
    session.add([request(index, prompt[index:], 60, sampling) for index in range(4)])
    heard = session.finish()
    assert session.scheduler.stats().preemptions > 0
    for index in range(4):
        covered = [part.start + i for part in heard[index].prompt_logprobs for i in range(len(part.positions))]
        assert covered == list(range(1, len(prompt) - index))


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_row_that_is_not_finite_ends_its_own_request_only(model: Model, prompt: list[int]) -> None:
    """A token whose embedding is NaN is fed to one request in the middle of the others."""
    poisoned = 77
    healthy = [token for token in prompt if token != poisoned]
    banned = {"logit_bias": {poisoned: -100.0}}  # the others must not come to say it
    requests = [ask(index, healthy[index:], flat(**banned)) for index in range(6)]
    expected = Session(make_runner(model)).tokens(requests)

    def embed(ids_T: torch.Tensor) -> torch.Tensor:
        return model.embedding(ids_T).masked_fill((ids_T == poisoned)[:, None], math.nan)

    session = Session(make_runner(dataclasses.replace(model, embedding=embed)), run_ahead=True)
    session.add([*requests[:3], ask(99, [*healthy[:7], poisoned, *healthy[7:]], flat(**banned)), *requests[3:]])
    heard = session.finish()
    assert heard[99].reason == "error"
    assert "not finite" in heard[99].message
    assert {index: heard[index].tokens for index in range(6)} == expected


def test_a_request_that_forbids_every_token_fails_alone(model: Model, prompt: list[int]) -> None:
    nothing = flat(allowed_token_ids=[4], bad_word_ids=[[4]])
    session = Session(make_runner(model))
    session.add([ask(1, prompt, nothing), ask(2, prompt, GREEDY)])
    heard = session.finish()
    assert heard[1].reason == "refused"
    assert "forbidden" in heard[1].message
    assert len(heard[2].tokens) > 1


def test_who_asks_for_log_probabilities_changes_no_masked_token(model: Model) -> None:
    """They are of the logits of all tokens; without them, those that masks forbid need not be computed."""
    work = masked_requests(model.spec.vocab)
    asking = msgspec.structs.replace(work[5], sampling=msgspec.structs.replace(work[5].sampling, logprobs=2))
    tokens = constrained_tokens(make_runner(model), work)
    assert tokens == constrained_tokens(make_runner(model), [*work[:5], asking, *work[6:]])
