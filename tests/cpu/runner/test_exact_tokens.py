"""Greedy tokens equal transformers', for every family, in every way in which a sequence can be computed."""

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cpu.runner.driving import Limits, Session, load, make_runner, request
from tests.cpu.tiny_models import VARIANTS, make_tiny_model, random_prompt, transformers_greedy
from tradewind.models.decoder import Model
from tradewind.protocol.request import EngineRequest, RowSampling

PROMPT_TOKENS, OUTPUT_TOKENS = 75, 64
LIMITS = Limits()
CHOSEN = 1000  # its request id


@dataclass(frozen=True)
class Golden:
    model: Model
    prompt: list[int]
    expected: list[int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@functools.lru_cache(maxsize=2)
def golden(folder: Path, variant: str) -> Golden:
    directory = make_tiny_model(folder / variant, VARIANTS[variant])
    model = load(directory)
    prompt = random_prompt(model.spec.vocab, PROMPT_TOKENS, seed=3)
    return Golden(model, prompt, transformers_greedy(directory, prompt, OUTPUT_TOKENS))


def others(model: Model, count: int, max_tokens: int = 50) -> list[EngineRequest]:
    """Requests of other lengths, settings and ends."""
    settings = [
        RowSampling(seed=1, temperature=0.0),
        RowSampling(seed=2, temperature=1.0),
        RowSampling(seed=3, temperature=0.8, top_p=0.9, top_k=20),
        RowSampling(seed=4, temperature=0.0, repetition_penalty=1.3, presence_penalty=0.5),
        RowSampling(seed=5, temperature=1.2, min_p=0.05, logprobs=2),
    ]
    return [
        request(
            other,
            random_prompt(model.spec.vocab, 3 + 11 * other % 90, seed=100 + other),
            1 + other * 7 % max_tokens,
            settings[other % len(settings)],
        )
        for other in range(count)
    ]


def chosen(known: Golden) -> EngineRequest:
    return request(CHOSEN, known.prompt, OUTPUT_TOKENS)


def alone(known: Golden, run_ahead: bool) -> list[int]:
    return Session(make_runner(known.model), run_ahead=run_ahead).tokens([chosen(known)])[CHOSEN]


def with_15_others(known: Golden, run_ahead: bool) -> list[int]:
    company = others(known.model, 15)
    return Session(make_runner(known.model), run_ahead=run_ahead).tokens([*company[:8], chosen(known), *company[8:]])[
        CHOSEN
    ]


def in_chunks_of(known: Golden, run_ahead: bool, chunk: int) -> list[int]:
    runner = make_runner(known.model, replace(LIMITS, step_tokens=chunk))
    return Session(runner, run_ahead=run_ahead).tokens([chosen(known)])[CHOSEN]


def from_the_prefix_cache(known: Golden, run_ahead: bool) -> list[int]:
    session = Session(make_runner(known.model), run_ahead=run_ahead)
    session.tokens([request(1, known.prompt[:60], 2)])
    tokens = session.tokens([chosen(known)])[CHOSEN]
    assert session.scheduler.stats().prefix_hit_tokens == 56  # 7 whole blocks
    return tokens


def preempted_and_resumed(known: Golden, run_ahead: bool) -> list[int]:
    runner = make_runner(known.model, replace(LIMITS, num_blocks=28))
    session = Session(runner, run_ahead=run_ahead, prefix_caching=False)
    same = [request(other, known.prompt[: 70 + other], OUTPUT_TOKENS) for other in range(3)]
    tokens = session.tokens([*same, chosen(known)])[CHOSEN]
    assert session.scheduler.stats().preemptions > 0
    return tokens


MODES = {
    "alone": alone,
    "with 15 others": with_15_others,
    "chunks of 1": functools.partial(in_chunks_of, chunk=1),
    "chunks of 7": functools.partial(in_chunks_of, chunk=7),
    "chunks of 64": functools.partial(in_chunks_of, chunk=64),
    "prefix cache": from_the_prefix_cache,
    "preempted": preempted_and_resumed,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_tokens_are_transformers_own(folder: Path, variant: str, mode: str) -> None:
    known = golden(folder, variant)
    for run_ahead in (False, True):
        assert MODES[mode](known, run_ahead) == known.expected, f"run_ahead={run_ahead}"


def test_every_preempted_request_resumes_exactly(folder: Path) -> None:
    directory = make_tiny_model(folder / "again", VARIANTS["qwen3-gqa2"])
    model = load(directory)
    prompts = [random_prompt(model.spec.vocab, 20 + 5 * index, seed=index) for index in range(6)]
    runner = make_runner(model, replace(LIMITS, num_blocks=26))
    session = Session(runner, run_ahead=True)
    tokens = session.tokens([request(index, prompt, 48) for index, prompt in enumerate(prompts)])
    assert session.scheduler.stats().preemptions > 0
    for index, prompt in enumerate(prompts):
        assert tokens[index] == transformers_greedy(directory, prompt, 48)


def test_stories260k_tells_its_golden_story(shared_data: Path) -> None:
    directory = shared_data / "models" / "stories260K"
    golden_ids = json.loads((directory / "greedy_200.json").read_text())
    model = load(directory)
    for run_ahead in (False, True):
        session = Session(make_runner(model, Limits(max_model_len=512)), run_ahead=run_ahead)
        tokens = session.tokens([request(number, golden_ids["prompt_ids"], 200) for number in range(3)])
        assert all(said == golden_ids["greedy_ids"] for said in tokens.values())
