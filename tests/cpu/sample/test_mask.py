"""A grammar's mask on the logits of some rows."""

import pytest
import torch

from tradewind.kernels.sample.adjust import Masked, mask


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("rows", [[], [2], [4, 0, 3]])
def test_only_masked_rows_change_and_only_where_forbidden(vocab: int, rows: list[int]) -> None:
    torch.manual_seed(vocab)
    logits_RV = torch.randn(5, vocab)
    words = -(-vocab // 32) + 1  # what is beyond the vocabulary means nothing
    bits_MW = torch.randint(-(2**31), 2**31, (len(rows), words), dtype=torch.int32)
    expected_RV = logits_RV.clone()
    for row, bits_W in zip(rows, bits_MW.tolist(), strict=True):
        for token in range(vocab):
            if not bits_W[token // 32] >> token % 32 & 1:
                expected_RV[row, token] = -torch.inf
    mask(logits_RV, Masked(torch.tensor(rows, dtype=torch.int64), bits_MW))
    assert torch.equal(logits_RV, expected_RV)
