"""What a request becomes before the engine sees it."""

import math
from types import SimpleNamespace

import pytest
from fake_engine import EOS_ID

from tradewind.base.errors import ContextLengthExceeded, RequestError
from tradewind.engine.resolve import Limits, Resolver, Terms, derived_seed
from tradewind.protocol.request import RowGrammar
from tradewind.protocol.sampling import SamplingParams

NOW = Terms(now_s=100.0)


@pytest.fixture
def resolver(tokenizer):
    limits = Limits(max_model_len=32, kv_tokens=1000, vocab_size=EOS_ID + 1, max_logprobs=5)
    return Resolver(tokenizer, frozenset({EOS_ID}), limits, draw_seed=lambda: 1234)


def test_defaults_are_filled_in(resolver):
    (request,) = resolver.resolve([1, 2], SamplingParams(max_tokens=None, top_k=-1, temperature=0), NOW, 7).requests
    assert request.request_id == 7
    assert request.max_tokens == 30
    assert request.stop_token_ids == [EOS_ID]
    assert request.sampling.seed == 1234
    assert request.sampling.top_k == 0
    assert request.arrival_s == 100.0
    assert request.deadline_s is None


def test_n_sequences_differ_in_seed_only_and_share_one_prompt_logprobs(resolver):
    params = SamplingParams(n=3, seed=-1, prompt_logprobs=1)
    requests = resolver.resolve([1, 2], params, NOW, 5).requests
    assert [request.request_id for request in requests] == [5, 6, 7]
    seeds = [request.sampling.seed for request in requests]
    assert seeds[0] == 2**64 - 1
    assert len(set(seeds)) == 3
    assert seeds == [derived_seed(2**64 - 1, index) for index in range(3)]
    assert [request.sampling.prompt_logprobs for request in requests] == [1, None, None]
    outputs = resolver.outputs(resolver.resolve([1, 2], params, NOW, 5), lambda: None)
    assert [output.index for output in outputs] == [0, 1, 2]


def test_stop_tokens_are_ends_of_sequence_and_the_requests_own(resolver):
    params = SamplingParams(stop_token_ids=[3])
    assert resolver.resolve([1], params, NOW, 0).requests[0].stop_token_ids == [3, EOS_ID]
    params = SamplingParams(stop_token_ids=[3], ignore_eos=True)
    assert resolver.resolve([1], params, NOW, 0).requests[0].stop_token_ids == [3]


def test_bad_words_become_token_ids_with_and_without_a_space(resolver, tokenizer):
    (request,) = resolver.resolve([1], SamplingParams(bad_words=["ab", " ab"]), NOW, 0).requests
    assert request.sampling.bad_word_ids == [tokenizer.encode("ab"), tokenizer.encode(" ab")]


def test_deadline_is_a_moment(resolver):
    terms = Terms(now_s=100.0, timeout_s=2.5, priority=3, cache_salt="me")
    (request,) = resolver.resolve([1], SamplingParams(), terms, 0).requests
    assert (request.deadline_s, request.priority, request.cache_salt) == (102.5, 3, "me")


@pytest.mark.parametrize("top_k", [EOS_ID + 1, 2**31, 2**63, 10**30])
def test_a_top_k_of_the_whole_vocabulary_is_no_limit(resolver, top_k):
    (request,) = resolver.resolve([1], SamplingParams(top_k=top_k), NOW, 0).requests
    assert request.sampling.top_k == 0


def test_more_log_probabilities_than_an_answer_can_hold_are_refused(resolver):
    resolver.resolve([1] * 16, SamplingParams(n=128, max_tokens=16, logprobs=5, prompt_logprobs=5), NOW, 0)
    large = Limits(max_model_len=2**20, kv_tokens=2**20, vocab_size=EOS_ID + 1, max_logprobs=20)
    resolver = Resolver(resolver._tokenizer, frozenset(), large)
    resolver.resolve([1] * 2**17, SamplingParams(prompt_logprobs=20, max_tokens=1), NOW, 0)
    for field, fields in (
        ("prompt_logprobs", {"prompt_logprobs": 20, "n": 4, "max_tokens": 1}),
        ("logprobs", {"logprobs": 20, "n": 8, "max_tokens": 2**17}),
    ):
        with pytest.raises(RequestError) as caught:
            resolver.resolve([1] * 2**17, SamplingParams(**fields), NOW, 0)
        assert caught.value.field == field


@pytest.mark.parametrize("priority", [2**63, -(2**63) - 1, 10**30])
def test_a_priority_that_no_message_can_hold_is_refused(resolver, priority):
    with pytest.raises(RequestError) as caught:
        resolver.resolve([1], SamplingParams(), Terms(now_s=0.0, priority=priority), 0)
    assert caught.value.field == "priority"


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan, math.inf])
def test_wrong_timeout(resolver, timeout_s):
    with pytest.raises(RequestError) as caught:
        resolver.resolve([1], SamplingParams(), Terms(now_s=0.0, timeout_s=timeout_s), 0)
    assert caught.value.field == "timeout"


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "empty"),
        ([EOS_ID + 1], f"token id {EOS_ID + 1}; this model's are 0 to {EOS_ID}"),
        ([1, -1], "token id -1"),
        (["a"], "whole numbers"),
        ([1.5], "whole numbers"),
        ([2**70], "whole numbers"),
    ],
)
def test_wrong_prompt(resolver, prompt, words):
    with pytest.raises(RequestError, match="prompt") as caught:
        resolver.resolve(prompt, SamplingParams(), NOW, 0)
    assert caught.value.field == "prompt"
    assert words in caught.value.message


def test_prompt_longer_than_the_context_says_both_lengths(resolver):
    with pytest.raises(ContextLengthExceeded) as caught:
        resolver.resolve([1] * 32, SamplingParams(max_tokens=None), NOW, 0)
    assert caught.value.field == "prompt"
    assert "32 tokens, but this model's context is 32" in caught.value.message


def test_max_tokens_over_the_limit_says_what_would_fit(resolver):
    with pytest.raises(ContextLengthExceeded) as caught:
        resolver.resolve([1] * 30, SamplingParams(max_tokens=3), NOW, 0)
    assert caught.value.field == "max_tokens"
    assert "context is 32 tokens, but the request needs 33" in caught.value.message
    assert "at most 2 tokens" in caught.value.message
    resolver.resolve([1] * 30, SamplingParams(max_tokens=2), NOW, 0)


def test_min_tokens_must_fit_too(resolver):
    with pytest.raises(ContextLengthExceeded) as caught:
        resolver.resolve([1] * 30, SamplingParams(max_tokens=None, min_tokens=3), NOW, 0)
    assert caught.value.field == "min_tokens"


def test_a_small_cache_is_the_limit(tokenizer):
    limits = Limits(max_model_len=100, kv_tokens=15, vocab_size=EOS_ID + 1, max_logprobs=5)
    resolver = Resolver(tokenizer, frozenset(), limits)
    assert resolver.resolve([1] * 10, SamplingParams(max_tokens=None), NOW, 0).requests[0].max_tokens == 6
    with pytest.raises(ContextLengthExceeded, match="KV cache has room for is 16 tokens"):
        resolver.resolve([1] * 16, SamplingParams(), NOW, 0)


def test_random_seeds_differ(tokenizer):
    limits = Limits(max_model_len=32, kv_tokens=1000, vocab_size=EOS_ID + 1, max_logprobs=5)
    resolver = Resolver(tokenizer, frozenset(), limits)
    seeds = {resolver.resolve([1], SamplingParams(), NOW, 0).requests[0].sampling.seed for _ in range(8)}
    assert len(seeds) == 8


class Marked:
    """A tokenizer with tokens for the marks around reasoning, and a template that writes them."""

    special_ids = frozenset()
    chat_template = SimpleNamespace(source="<think></think>")

    def id_of(self, token):
        return {"<think>": 21, "</think>": 22}.get(token)

    def decode(self, ids, skip_special_tokens=True):
        return {20: "hi", 21: "<think>", 22: "<think></think>"}[ids[-1]]


@pytest.mark.parametrize(("prompt", "begin"), [([1, 20], 21), ([1, 21], None)])
def test_a_budget_of_reasoning(prompt, begin):
    limits = Limits(max_model_len=32, kv_tokens=1000, vocab_size=30, max_logprobs=5)
    resolver = Resolver(Marked(), frozenset(), limits)
    resolved = resolver.resolve(prompt, SamplingParams(thinking_token_budget=5, n=2), NOW, 0)
    assert [request.grammar for request in resolved.requests] == [RowGrammar(None, begin, 22, 5)] * 2
    with pytest.raises(RequestError, match="must have 22 among them") as caught:
        resolver.resolve(prompt, SamplingParams(thinking_token_budget=5, allowed_token_ids=[1]), NOW, 0)
    assert caught.value.field == "allowed_token_ids"
    params = SamplingParams(thinking_token_budget=5, allowed_token_ids=[1, 22])
    assert resolver.resolve(prompt, params, NOW, 0).requests[0].grammar == RowGrammar(None, begin, 22, 5)


def test_a_budget_of_reasoning_that_is_over_or_that_there_is_none_of(resolver):
    limits = Limits(max_model_len=32, kv_tokens=1000, vocab_size=30, max_logprobs=5)
    params = SamplingParams(thinking_token_budget=5)
    assert Resolver(Marked(), frozenset(), limits).resolve([1, 22], params, NOW, 0).requests[0].grammar is None
    with pytest.raises(RequestError, match="no tokens around reasoning") as caught:
        resolver.resolve([1], params, NOW, 0)
    assert caught.value.field == "thinking_token_budget"
    params = SamplingParams(thinking_token_budget=10**30)  # more than may be said at all
    assert Resolver(Marked(), frozenset(), limits).resolve([1, 20], params, NOW, 0).requests[0].grammar is None
    for wrong in (-1, 1.5, True, "5"):
        with pytest.raises(RequestError, match="thinking_token_budget must be a whole number of at least 0"):
            resolver.resolve([1], SamplingParams(thinking_token_budget=wrong), NOW, 0)
