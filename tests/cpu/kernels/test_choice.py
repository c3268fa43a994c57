"""Which implementation is chosen, and what is said of it."""

import pytest
import torch

from tradewind.base.errors import ConfigError
from tradewind.kernels import chained_linear
from tradewind.kernels.choice import Candidate, pick
from tradewind.kernels.gpu import ABSENT_GPUS
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.ops import choose_ops

CPU = torch.device("cpu")

CANDIDATES = [
    Candidate("native", "fast", lambda device, dtype: None if dtype == torch.bfloat16 else f"it has no {dtype}"),
    Candidate("torch", "middling", about="by torch"),
    Candidate("reference", "plain"),
]


def test_the_fastest_that_can_be_used_is_chosen() -> None:
    assert pick(CANDIDATES, CPU, torch.bfloat16).run == "fast"
    choice = pick(CANDIDATES, CPU, torch.float32)
    assert (choice.kind, choice.run) == ("torch", "middling")
    assert choice.reason == "by torch; not native: it has no torch.float32"


@pytest.mark.parametrize(("prefer", "expected"), [("native", "fast"), ("torch", "middling"), ("reference", "plain")])
def test_a_preferred_kind_passes_over_faster_ones(prefer: str, expected: str) -> None:
    assert pick(CANDIDATES, CPU, torch.bfloat16, prefer).run == expected


def test_a_preferred_kind_that_an_op_lacks_gives_the_next_one() -> None:
    assert pick(CANDIDATES[::2], CPU, torch.bfloat16, "torch").run == "plain"


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="triton, native, torch, reference"):
        pick(CANDIDATES, CPU, torch.bfloat16, "fastest")


def test_every_op_says_what_was_chosen() -> None:
    ops = choose_ops("cpu", torch.float32, "reference")
    names = {"linear", "add_rms_norm", "qk_norm_rope_write", "paged_attention", "silu_mul", "embedding"}
    assert set(ops.chosen) == names
    assert {chosen.kind for chosen in ops.chosen.values()} == {"reference"}
    assert all(chosen.reason for chosen in ops.chosen.values())
    assert choose_ops("cpu", torch.float32, "reference") == ops


@pytest.mark.parametrize(
    ("name", "dtype", "tokens"),
    [
        ("none", torch.bfloat16, None),
        ("lossless", torch.bfloat16, None),
        ("fp8", torch.bfloat16, (1, 2)),
        ("fp8", torch.float16, None),
        ("fp8-blocks", torch.bfloat16, (2, 64)),
        ("int4-g128", torch.bfloat16, (1, 64)),
        ("int4-g128", torch.float16, None),  # rows may be too large for it before they are normed
    ],
)
def test_products_are_chained_where_that_is_faster(
    name: str, dtype: torch.dtype, tokens: tuple[int, int] | None
) -> None:
    quantisation, gpu = Quantisation.named(name), ABSENT_GPUS["h100"]
    assert chained_linear.is_faster(gpu, dtype, quantisation) == (tokens is not None)
    assert not chained_linear.is_faster(gpu, dtype, quantisation, exact=True)
    ops = choose_ops(gpu, dtype, quantisation=quantisation).chosen
    assert ("fused_linear" in ops) == (dtype == torch.bfloat16 or name == "fp8")
    chosen = ops.get("chained_linear")
    assert (chosen is not None) == (tokens is not None)
    if tokens is not None:
        assert quantisation is not None
        assert chosen is not None
        steps = chained_linear.steps_of(quantisation)
        assert (steps[0], steps[-1]) == tokens
        assert f"in steps of {tokens[0]} to {tokens[1]} tokens" in chosen.reason
