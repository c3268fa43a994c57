"""A grammar's mask on the logits of some rows."""

import pytest
import torch

from tradewind.kernels import native
from tradewind.kernels.mask_logits import Masked, MaskLogits, choose

IMPLEMENTATIONS = ["reference", *native.runnable()]


def implementation(name: str) -> MaskLogits:
    cpu = torch.device("cpu")
    return choose(cpu, "reference").run if name == "reference" else choose(cpu, level=name).run


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("rows", [[], [2], [4, 0, 3]])
def test_only_masked_rows_change_and_only_where_forbidden(name: str, vocab: int, rows: list[int]) -> None:
    torch.manual_seed(vocab)
    logits_RV = torch.randn(5, vocab)
    words = -(-vocab // 32) + 1  # what is beyond the vocabulary means nothing
    bits_MW = torch.randint(-(2**31), 2**31, (len(rows), words), dtype=torch.int32)
    bits_MW[:1, :3] = torch.tensor([-1, 0, 1])[:words]
    expected_RV = logits_RV.clone()
    for row, bits_W in zip(rows, bits_MW.tolist(), strict=True):
        for token in range(vocab):
            if not bits_W[token // 32] >> token % 32 & 1:
                expected_RV[row, token] = -torch.inf
    implementation(name)(logits_RV, Masked(torch.tensor(rows, dtype=torch.int64), bits_MW))
    assert torch.equal(logits_RV, expected_RV)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_large_vocabularies_are_shared_among_threads(name: str) -> None:
    logits_RV = torch.zeros(8, 200_001)
    bits_MW = torch.zeros(8, 6251, dtype=torch.int32)
    bits_MW[:, 6250] = 1
    implementation(name)(logits_RV, Masked(torch.arange(8), bits_MW))
    assert (logits_RV[:, :-1] == -torch.inf).all()
    assert (logits_RV[:, -1] == 0).all()
