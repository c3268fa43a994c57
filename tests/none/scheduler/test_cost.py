"""What rows cost, and how prompts share what a step may cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import Shape, row_cost

from tradewind.protocol.cost import ContextCost
from tradewind.scheduler.budget import Budget, Rest, Room
from tradewind.scheduler.cost import Costs

CONTEXTS = st.builds(
    ContextCost,
    kinds=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.25, 3.0]), st.sampled_from([None, 1, 7, 40])), max_size=3
    ).map(tuple),
    least_tokens=st.sampled_from([1.0, 2.5, 30.0]),
)
RESTS = st.builds(Rest, computed=st.integers(0, 300), tokens=st.integers(0, 60))


@given(CONTEXTS, st.integers(0, 90), st.integers(0, 40))
def test_a_row_costs_what_its_tokens_see(context, computed, tokens):
    assert Costs(context).row(computed, tokens) == pytest.approx(row_cost(context, computed, tokens))


@given(CONTEXTS, st.lists(st.integers(0, 200), max_size=5))
def test_decode_rows_cost_what_rows_of_one_token_do(context, computed):
    costs = Costs(context)
    assert costs.decodes(np.array(computed, np.int32)) == pytest.approx(sum(costs.row(count, 1) for count in computed))


@given(CONTEXTS, st.integers(0, 200), st.integers(0, 60), st.floats(0, 500))
def test_as_many_tokens_fit_as_cost_no_more(context, computed, tokens, most):
    costs = Costs(context)
    fitting = costs.fitting(computed, tokens, most)
    assert costs.row(computed, fitting) <= most
    assert fitting == tokens or costs.row(computed, fitting + 1) > most


@given(
    CONTEXTS,
    st.lists(RESTS, min_size=1, max_size=6),
    st.integers(1, 80),
    st.floats(1, 300),
    st.sampled_from([1, 4, 16]),
)
def test_prompts_use_their_room_and_no_more(context, prompts, tokens, cost, block_tokens):
    costs = Costs(context)
    budget = Budget(Shape(context_cost=context, block_tokens=block_tokens).info(), 80)
    chunks = budget.divide(prompts, Room(tokens, cost))
    assert sum(chunks) <= tokens
    assert all(0 <= chunk <= prompt.tokens for chunk, prompt in zip(chunks, prompts, strict=True))
    assert chunks[0] or not prompts[0].tokens, "the first always moves"
    prices = [costs.row(prompt.computed, chunk) for chunk, prompt in zip(chunks, prompts, strict=True)]
    if sum(prices) > cost + 1e-6:
        assert chunks[0] <= block_tokens
        assert sum(prices[1:]) <= cost / 2
    first = prompts[0]
    if chunks[0] < first.tokens and sum(chunks) < tokens:
        assert sum(prices) - prices[0] + costs.row(first.computed, chunks[0] + 1) > cost - 1e-6, "room is left"


@given(st.lists(RESTS, min_size=1, max_size=6), st.integers(1, 80))
def test_without_a_price_of_contexts_tokens_alone_count(prompts, tokens):
    budget = Budget(Shape(block_tokens=4).info(), 80)
    chunks = budget.divide(prompts, Room(tokens, tokens))
    assert sum(chunks) == min(tokens, sum(prompt.tokens for prompt in prompts))
    assert chunks[0] >= min(prompts[0].tokens, (tokens + 1) // 2)
    others = sorted((prompt.tokens, -chunk) for prompt, chunk in zip(prompts[1:], chunks[1:], strict=True))
    unfinished = [place for place, (rest, minus_chunk) in enumerate(others) if rest + minus_chunk]
    assert not any(minus_chunk for _, minus_chunk in others[1 + min(unfinished, default=99) :]), "the shortest first"


def test_decode_rows_leave_the_rest_or_a_quarter_of_what_they_cost():
    context = ContextCost(((0.01, None),), least_tokens=2)
    budget = Budget(Shape(context_cost=context).info(), 100)
    assert budget.beside(np.zeros(0, np.int32)) == Room(100, pytest.approx(100 + 0.01 * 5050))
    assert budget.beside(np.array([49], np.int32)) == Room(99, pytest.approx(150.5 - 2))
    assert budget.beside(np.array([9999], np.int32)) == Room(99, pytest.approx(201 / 4))
