"""Drawing tokens in C++: what is kept against float64, wherever the candidates' lists change their ways.

What every implementation must do is in tests/cpu/sample.
"""

import itertools

import numpy as np
import pytest
import torch

from tradewind.kernels import native
from tradewind.kernels.sample import SampleRows, reference
from tradewind.kernels.sample.cpu import NativeSample

LAST = 1 - 2.0**-53  # draws the last token that is kept; 0.0 the first
ROUNDING = 1e-6


def draw(library: native.Library, logits_RV: torch.Tensor, row: dict[str, float], uniform: float) -> list[int]:
    """A token for each row; all rows are sampled alike."""
    count = len(logits_RV)
    rows = SampleRows(
        np.full(count, row.get("temperature", 1.0)),
        np.full(count, int(row.get("top_k", 0))),
        np.full(count, row.get("top_p", 1.0)),
        np.full(count, row.get("min_p", 0.0)),
        np.full(count, uniform),
    )
    tokens: list[int] = NativeSample(library)(logits_RV, rows).tolist()
    return tokens


def kept(logits_V: torch.Tensor, row: dict[str, float]) -> torch.Tensor:
    return reference.kept(
        logits_V, row.get("temperature", 1.0), int(row.get("top_k", 0)), row.get("top_p", 1.0), row.get("min_p", 0.0)
    )


@pytest.mark.parametrize("vocab", [40, 513, 9000])
@pytest.mark.parametrize("top_k", [1, 2, 129, 600, 8999, 9000, 10**6])
@pytest.mark.parametrize("grain", [0, 0.25])
def test_top_k_keeps_what_the_reference_keeps(library: native.Library, vocab: int, top_k: int, grain: float) -> None:
    """To the token: ties (`grain` makes many), and the first and last that are kept, in three orders."""
    logits_V = torch.randn(vocab) * 3
    if grain:
        logits_V = (logits_V / grain).round() * grain
    logits_RV = torch.stack([logits_V, logits_V.sort().values, logits_V.sort(descending=True).values])
    places = [kept(logits_V, {"top_k": top_k}).nonzero().flatten() for logits_V in logits_RV]
    assert draw(library, logits_RV, {"top_k": top_k}, 0.0) == [int(place[0]) for place in places]
    assert draw(library, logits_RV[2:], {"top_k": top_k}, LAST) == [int(places[2][-1])]


@pytest.mark.parametrize("limits", [{}, {"temperature": 0.2}, {"top_k": 700}, {"min_p": 1e-4, "temperature": 3.0}])
@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9])
def test_a_nucleus_ends_where_its_share_is_reached(
    library: native.Library, top_p: float, limits: dict[str, float]
) -> None:
    for vocab, scale in itertools.product((40, 513, 9000), (0.0, 1e-3, 0.5, 4.0)):
        check_nucleus(library, (torch.randn(vocab) * scale).sort(descending=True).values, top_p, limits)


def check_nucleus(library: native.Library, logits_V: torch.Tensor, top_p: float, limits: dict[str, float]) -> None:
    """The tokens before the last one weigh too little, and with it enough, but for rounding."""
    last = draw(library, logits_V.unsqueeze(0), {**limits, "top_p": top_p}, LAST)[0]
    p_V = kept(logits_V, limits)
    share_V = p_V.cumsum(-1) / p_V.sum()
    equal = int((logits_V == logits_V[last]).nonzero()[-1])
    assert last == equal, "equal tokens stay together"
    first = int((logits_V == logits_V[last]).nonzero()[0])
    assert share_V[last] >= top_p - ROUNDING
    assert first == 0 or share_V[first - 1] < top_p + ROUNDING


@pytest.mark.parametrize("min_p", [1e-6, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_min_p_keeps_what_the_reference_keeps(library: native.Library, min_p: float, temperature: float) -> None:
    row = {"min_p": min_p, "temperature": temperature}
    logits_V = (torch.randn(3000) * 3).sort(descending=True).values
    assert draw(library, logits_V.unsqueeze(0), row, LAST) == [int(kept(logits_V, row).nonzero()[-1])]


@pytest.mark.parametrize("place", [0, 15, 16, 511, 512, 1000, 1029])
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf")])
def test_one_number_that_is_none_fails_a_row(library: native.Library, place: int, bad: float) -> None:
    logits_RV = torch.randn(2, 1030)
    logits_RV[0, place] = bad
    for row in ({"temperature": 0.0}, {}, {"top_p": 0.9}, {"top_k": 5}):
        failed, healthy = draw(library, logits_RV, row, 0.5)
        assert failed == -1
        assert healthy >= 0


def test_it_never_draws_what_weighs_nothing(library: native.Library) -> None:
    """Logits that are forbidden, at the ends, in whole blocks, and so unlikely that their weight is nought."""
    logits_RV = torch.full((1, 4000), -torch.inf)
    logits_RV[0, [700, 2300, 2301]] = torch.tensor([-300.0, -5.0, -5.5])
    for row in ({}, {"top_k": 4}, {"top_p": 0.9999999}, {"min_p": 1e-30}):
        assert draw(library, logits_RV, row, 0.0) == [2300]
        assert draw(library, logits_RV, row, LAST) == [2301]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_large_vocabularies_are_shared_among_threads(library: native.Library, threads: int, count: int) -> None:
    """Few rows share their blocks, many are shared; nothing else changes, and the logits stay as they are."""
    logits_RV = torch.randn(count, 151_936) * 2
    before = logits_RV.clone()
    for row in ({"temperature": 0.0}, {}, {"top_p": 0.95}, {"top_k": 40, "top_p": 0.9, "temperature": 0.7}):
        torch.set_num_threads(1)
        alone = [draw(library, logits_RV[r : r + 1], row, 0.37)[0] for r in range(count)]
        torch.set_num_threads(threads)
        assert draw(library, logits_RV, row, 0.37) == alone
    assert torch.equal(logits_RV, before)


def test_no_rows_are_no_tokens(library: native.Library) -> None:
    assert draw(library, torch.empty(0, 100), {}, 0.5) == []
