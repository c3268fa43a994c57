"""Drawing tokens: every implementation against the float64 reference, against exact distributions, and alone against in
company; and the parts of the vectorised one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.kernels import native
from tradewind.kernels.sample import Sample, SampleRows, choose, reference, vectorised
from tradewind.kernels.sample.random import stream_keys, uniforms

CPU = torch.device("cpu")
IMPLEMENTATIONS = ["torch", *native.runnable()]


def implementation(name: str) -> Sample:
    return choose(CPU, "torch").run if name == "torch" else choose(CPU, level=name).run


@pytest.fixture(params=IMPLEMENTATIONS)
def sample(request: pytest.FixtureRequest) -> Sample:
    return implementation(request.param)


def rows_of(*settings_of_rows: dict[str, float]) -> SampleRows:
    """Rows from `{"temperature": ..., "top_k": ..., "top_p": ..., "min_p": ..., "uniform": ...}`."""

    def column(name: str, default: float, dtype: type) -> np.ndarray:
        return np.array([row.get(name, default) for row in settings_of_rows], dtype)

    return SampleRows(
        column("temperature", 1.0, np.float64),
        column("top_k", 0, np.int64),
        column("top_p", 1.0, np.float64),
        column("min_p", 0.0, np.float64),
        column("uniform", 0.5, np.float64),
    )


def kept_by_vectorised(logits_V: torch.Tensor, **row: float) -> torch.Tensor:
    """The probabilities that are left after the filters of one row."""
    p_RV = torch.softmax(logits_V.unsqueeze(0) / row.pop("temperature", 1.0), -1)
    vectorised._drop(p_RV, vectorised._thresholds(p_RV, rows_of(row)))
    return p_RV[0]


def normal(vocab: int, seed: int = 0, scale: float = 3.0, rows: int | None = None) -> torch.Tensor:
    shape = (vocab,) if rows is None else (rows, vocab)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


# --- greedy and faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [1, 2, 511, 512, 1024, 1025, 5000, 151_936])
def test_greedy_takes_the_first_of_equal_logits(sample: Sample, vocab: int) -> None:
    logits_RV = normal(vocab, rows=4)
    for row, places in enumerate([[0], [vocab - 1], [vocab // 2, vocab - 1], [vocab // 3, vocab // 2]]):
        logits_RV[row, places] = 50.0
    tokens = sample(logits_RV.clone(), rows_of(*[{"temperature": 0.0}] * 4))
    assert tokens.tolist() == [0, vocab - 1, vocab // 2, vocab // 3]
    assert tokens.tolist() == reference.sample(logits_RV, rows_of(*[{"temperature": 0.0}] * 4)).tolist()


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("vocab", [40, 3001])
def test_a_row_that_is_not_finite_fails_alone(sample: Sample, bad: float, temperature: float, vocab: int) -> None:
    logits_RV = normal(vocab, rows=4)
    rows = rows_of(*[{"temperature": temperature, "top_p": 0.9}] * 4)
    healthy = sample(logits_RV.clone(), rows).tolist()
    logits_RV[1, vocab // 2] = bad
    logits_RV[2] = -math.inf
    tokens = sample(logits_RV.clone(), rows).tolist()
    assert tokens == [healthy[0], -1, -1, healthy[3]]
    assert reference.sample(logits_RV, rows).tolist()[1:3] == [-1, -1]


def test_tokens_that_are_forbidden_are_never_drawn(sample: Sample) -> None:
    logits_RV = torch.full((64, 2000), -math.inf)
    logits_RV[:, 1234] = -5.0
    rows = rows_of(*[{"uniform": place / 64} for place in range(64)])
    assert set(sample(logits_RV, rows).tolist()) == {1234}


# --- filters ---------------------------------------------------------------------------------------------------------

FILTERS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 5000},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_p": 0.1},
    {"top_p": 0.95},
    {"top_p": 0.9999},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 1.5, "top_k": 300, "top_p": 0.99, "min_p": 0.001},
]


@pytest.mark.parametrize("row", FILTERS, ids=str)
@pytest.mark.parametrize("vocab", [7, 1500, 20_011])
@pytest.mark.parametrize("scale", [0.05, 0.5, 4.0])
def test_filters_keep_what_the_reference_keeps(row: dict[str, float], vocab: int, scale: float) -> None:
    logits_V = normal(vocab, seed=vocab, scale=scale)
    expected_V = reference.kept(
        logits_V, row.get("temperature", 1.0), int(row.get("top_k", 0)), row.get("top_p", 1.0), row.get("min_p", 0.0)
    )
    kept_V = kept_by_vectorised(logits_V, **row).double()
    # Rounding may move the edge by a token whose probability is the edge's, to float32; nothing else may differ.
    edge = expected_V[expected_V > 0].min()
    clear = (torch.softmax(logits_V.double() / row.get("temperature", 1.0), -1) / edge - 1).abs() > 1e-4
    assert torch.equal((kept_V > 0)[clear], (expected_V > 0)[clear])
    assert (kept_V - expected_V).abs().max() <= max(1e-6, 2 * float(edge) if not clear.all() else 0)
    assert abs(int((kept_V > 0).sum()) - int((expected_V > 0).sum())) <= int((~clear).sum())


def test_a_wide_nucleus_has_the_same_edge_as_a_full_sort() -> None:
    for seed, scale in enumerate([0.01, 0.3, 1.0, 2.0]):
        p_V = torch.softmax(normal(30_000, seed, scale), -1)
        mass = p_V.double().sum() * 0.9
        descending = p_V.sort(descending=True).values
        exact = descending[(descending.cumsum(-1, dtype=torch.float64) < mass).sum()]
        assert vectorised._edge_by_buckets(p_V, mass.reshape(1)) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("row", [row for row in FILTERS if set(row) - {"temperature"}], ids=str)
@pytest.mark.parametrize("scale", [0.3, 2.0, 5.0])
def test_a_settled_row_draws_the_same_from_more_candidates(row: dict[str, float], scale: float) -> None:
    p_RV = torch.softmax(normal(3000, seed=2, scale=scale, rows=16) / row.get("temperature", 1.0), -1)
    p_RV[3, 40:90] = p_RV[3].max()  # more equal ones than the fewest candidates have room for
    rows = rows_of(*[row | {"uniform": (place + 0.5) / 16} for place in range(16)])
    dense = vectorised._draw_dense(p_RV.clone(), rows)
    before = None
    for count in (20, 64, 256, 2999, 3000):
        tokens, settled = vectorised.draw_from_candidates(p_RV, rows, count)
        if before is not None:
            assert torch.equal(tokens[before[1]], before[0][before[1]])
            assert settled[before[1]].all()
        before = tokens, settled
        assert torch.equal(tokens[settled], dense[settled])
    assert settled.all()


def test_top_k_keeps_equal_tokens_together() -> None:
    kept = kept_by_vectorised(torch.tensor([1.0, 3.0, 3.0, 3.0, 0.0]), top_k=2)
    assert (kept > 0).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(("vocab", "count"), [(10, 10), (300, 5), (64 * 50, 3), (64 * 50 + 17, 9), (151_936, 300)])
def test_largest_finds_the_largest(vocab: int, count: int) -> None:
    values_RV = normal(vocab, rows=3)
    values_RV[1] = values_RV[1].round()  # many equal ones
    values_RV[2, -1] = 99.0
    values, places = vectorised.largest(values_RV, count)
    assert torch.equal(values, values_RV.topk(count).values)
    assert torch.equal(values_RV.gather(1, places), values)
    assert all(len(set(row)) == count for row in places.tolist())


# --- the draw --------------------------------------------------------------------------------------------------------


def near_an_edge(p_V: torch.Tensor, uniform: float) -> bool:
    """Whether rounding may decide between two neighbours."""
    running = p_V.cumsum(-1) / p_V.sum()
    return bool(((running - uniform).abs() < 2e-6).any())


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(IMPLEMENTATIONS),
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([3, 64, 700, 1024, 2600]),
    scale=st.sampled_from([0.5, 2.0, 6.0]),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 400]),
    top_p=st.sampled_from([1.0, 0.3, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_any_combination_draws_the_references_token(
    name: str,
    seed: int,
    vocab: int,
    scale: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniform: float,
) -> None:
    logits_V = normal(vocab, seed, scale)
    row = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "uniform": uniform}
    company = {"temperature": 0.9, "top_p": 0.8, "top_k": 30, "uniform": 0.3}
    logits_RV = torch.stack([normal(vocab, seed + 1), logits_V, normal(vocab, seed + 2, 0.1)])
    token = int(implementation(name)(logits_RV, rows_of(company, row, {"temperature": 0.0}))[1])
    expected = int(reference.sample(logits_V.unsqueeze(0), rows_of(row))[0])
    if temperature == 0.0:
        assert token == expected
        return
    p_V = reference.kept(logits_V, temperature, top_k, top_p, min_p)
    assert p_V[token] > 0
    assert token == expected or near_an_edge(p_V, uniform)


@pytest.mark.parametrize(
    "row", [{}, {"temperature": 1.5}, {"top_k": 8}, {"top_p": 0.7}, {"min_p": 0.05, "top_p": 0.95}], ids=str
)
def test_draws_follow_the_exact_distribution(sample: Sample, row: dict[str, float]) -> None:
    draws, vocab = 40_000, 24
    logits_V = normal(vocab, seed=5, scale=1.5)
    keys = stream_keys(np.arange(draws, dtype=np.uint64))
    rows = rows_of(*[row] * draws)
    rows = SampleRows(rows.temperature_R, rows.top_k_R, rows.top_p_R, rows.min_p_R, uniforms(keys, np.full(draws, 17)))
    tokens = sample(logits_V.expand(draws, -1).contiguous(), rows)
    p_V = reference.kept(
        logits_V, row.get("temperature", 1.0), int(row.get("top_k", 0)), row.get("top_p", 1.0), row.get("min_p", 0.0)
    )
    assert_distribution(tokens, p_V)


def assert_distribution(tokens: torch.Tensor, p_V: torch.Tensor) -> None:
    """Chi-square at 5 standard deviations of its normal approximation; the seeds are fixed, so this never flakes."""
    expected = p_V / p_V.sum() * len(tokens)
    counts = torch.bincount(tokens, minlength=len(p_V)).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
    freedom = int(possible.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_the_chi_square_test_notices_a_small_bias() -> None:
    p_V = torch.softmax(normal(24, seed=5, scale=1.5).double(), -1)
    biased = p_V.clone()
    biased[3] += 0.02
    tokens = torch.multinomial(biased, 40_000, replacement=True, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError):
        assert_distribution(tokens, p_V)


# --- company ---------------------------------------------------------------------------------------------------------


def mixed_rows(vocab: int) -> list[dict[str, float]]:
    """32 rows with every filter and none."""
    generator = np.random.default_rng(vocab)
    choices = [{"temperature": 0.0}, *FILTERS]
    return [dict(choices[i % len(choices)], uniform=generator.random()) for i in range(32)]


@pytest.mark.parametrize(("vocab", "threads"), [(512, 1), (1000, 3), (33_333, 2)])
def test_a_row_draws_the_same_alone_and_among_31_others(sample: Sample, vocab: int, threads: int) -> None:
    settings_of_rows = mixed_rows(vocab)
    logits_RV = normal(vocab, seed=1, scale=0.5, rows=32)
    before = torch.get_num_threads()
    together = sample(logits_RV.clone(), rows_of(*settings_of_rows)).tolist()
    torch.set_num_threads(threads)
    try:
        assert sample(logits_RV.clone(), rows_of(*settings_of_rows)).tolist() == together
        for row in range(32):
            alone = sample(logits_RV[row : row + 1].clone(), rows_of(settings_of_rows[row]))
            assert alone.tolist() == [together[row]]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("vocab", [512, 33_333])
def test_the_sums_of_a_row_are_the_same_bits_alone_and_among_31_others(vocab: int) -> None:
    settings_of_rows = mixed_rows(vocab)
    p_RV = torch.softmax(normal(vocab, seed=1, scale=0.5, rows=32), -1)
    thresholds, sums = vectorised._thresholds(p_RV, rows_of(*settings_of_rows)), vectorised._chunk_sums(p_RV)
    for row in range(32):
        p_1V = p_RV[row : row + 1].clone()
        assert torch.equal(vectorised._thresholds(p_1V, rows_of(settings_of_rows[row]))[0], thresholds[row])
        assert torch.equal(vectorised._chunk_sums(p_1V)[0], sums[row])


def test_every_implementation_is_chosen_by_name() -> None:
    assert choose(CPU).kind == ("native" if native.runnable() else "torch")
    assert choose(CPU, prefer="torch").run is vectorised.sample
    assert choose(CPU, prefer="reference").run is reference.sample
