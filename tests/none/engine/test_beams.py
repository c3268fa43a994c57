"""Beam search over made-up probabilities: against all sequences there are, and against the rules written plainly."""

import itertools
import math
import random

import pytest

from tradewind.engine.beams import Beam, BeamSearch
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import BeamSearchParams

END = 0
VOCAB = 5


def next_logprobs(tokens: tuple[int, ...], seed: int) -> list[float]:
    """The probabilities of all tokens after `tokens`, the same whenever asked."""
    rng = random.Random(repr((seed, tokens)))
    weights = [rng.random() ** 3 + 1e-3 for _ in range(VOCAB)]
    return [math.log(weight / sum(weights)) for weight in weights]


def position(tokens: tuple[int, ...], seed: int, top: int) -> TokenLogprobs:
    logprobs = next_logprobs(tokens, seed)
    order = sorted(range(VOCAB), key=lambda token: -logprobs[token])[:top]
    return TokenLogprobs([order[0], *order], [logprobs[order[0]], *(logprobs[token] for token in order)], 1)


def search(params: BeamSearchParams, seed: int) -> BeamSearch:
    assert params.max_tokens is not None
    made = BeamSearch(params, params.max_tokens, frozenset() if params.ignore_eos else frozenset({END}))
    while made.live:
        made.advance([position(tuple(beam.tokens), seed, 2 * params.beam_width) for beam in made.live])
    return made


def all_sequences(seed: int, max_tokens: int) -> list[tuple[float, list[int]]]:
    found = []
    for length in range(1, max_tokens + 1):
        for tokens in itertools.product(range(VOCAB), repeat=length):
            ends = tokens[-1] == END
            if END not in tokens[:-1] and (ends or length == max_tokens):
                logprob = sum(next_logprobs(tokens[:place], seed)[token] for place, token in enumerate(tokens))
                found.append((logprob, list(tokens)))
    return found


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 0.7, 1.0, 2.5])
def test_a_search_wide_enough_finds_the_best_of_all(length_penalty: float) -> None:
    for seed in range(5):
        params = BeamSearchParams(beam_width=100, max_tokens=3, length_penalty=length_penalty)
        made = search(params, seed)
        every = sorted(all_sequences(seed, 3), key=lambda one: -one[0] / len(one[1]) ** length_penalty)
        expected = [tokens for _, tokens in every[:50]]
        assert [beam.tokens for beam in made.best()[:50]] == expected


def plain_search(params: BeamSearchParams, seed: int) -> list[list[int]]:
    """The same rules, written without any care: all candidates, no end before the last step."""
    live, ended = [(0.0, [])], []
    for length in range(1, params.max_tokens + 1):
        candidates = [
            (logprob + more, [*tokens, token])
            for logprob, tokens in live
            for token, more in enumerate(next_logprobs(tuple(tokens), seed))
        ]
        candidates = sorted(candidates, key=lambda one: -one[0])[: 2 * params.beam_width]
        final = length == params.max_tokens
        ended += [one for one in candidates[: params.beam_width] if final or one[1][-1] == END]
        live = [one for one in candidates if one[1][-1] != END][: params.beam_width]
    ended.sort(key=lambda one: -one[0] / len(one[1]) ** params.length_penalty)
    return [tokens for _, tokens in ended[: params.beam_width]]


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_ending_early_changes_nothing(width: int, length_penalty: float) -> None:
    for seed in range(20):
        params = BeamSearchParams(beam_width=width, max_tokens=7, length_penalty=length_penalty)
        assert [beam.tokens for beam in search(params, seed).best()] == plain_search(params, seed)


def test_what_a_beam_carries() -> None:
    (best, *_) = search(BeamSearchParams(beam_width=2, max_tokens=6), 3).best()
    assert best.logprob == pytest.approx(sum(one.logprobs[0] for one in best.positions))
    assert [one.token_ids[0] for one in best.positions] == best.tokens
    for one in best.positions:
        assert one.token_ids[one.rank] == one.token_ids[0]
    assert best.finish_reason is (FinishReason.STOP if best.tokens[-1] == END else FinishReason.LENGTH)


def test_without_ends_all_are_as_long_as_they_may_be() -> None:
    for beam in search(BeamSearchParams(beam_width=3, max_tokens=5, ignore_eos=True), 1).best():
        assert (len(beam.tokens), beam.finish_reason) == (5, FinishReason.LENGTH)


def test_early_stopping_takes_the_first_ends() -> None:
    lengths = []
    for early in (False, True):
        params = BeamSearchParams(beam_width=2, max_tokens=12, early_stopping=early, length_penalty=5.0)
        made = BeamSearch(params, 12, frozenset({END}))
        steps = 0
        while made.live:
            made.advance([position(tuple(beam.tokens), 4, 4) for beam in made.live])
            steps += 1
        lengths.append(steps)
        assert len(made.best()) == 2
    assert lengths[1] < lengths[0] == 12


def test_what_cannot_be_is_no_candidate() -> None:
    made = BeamSearch(BeamSearchParams(beam_width=2, max_tokens=2), 2, frozenset())
    made.advance([TokenLogprobs([1, 1, 2], [0.0, 0.0, float("-inf")], 1)])
    assert made.live == [Beam([1], [TokenLogprobs([1, 1, 2], [0.0, 0.0, float("-inf")], 1)], 0.0)]
