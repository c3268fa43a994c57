"""Log probabilities of the raw logits: of the chosen token, of the k most likely ones, and the chosen one's rank.

Legend: N rows, V vocabulary, K alternatives.
"""

import torch
from torch import Tensor

from tradewind.kernels.sample.vectorised import largest


def top_logprobs(logits_NV: Tensor, tokens_N: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ids_NK1 int64, logprobs_NK1 float32, ranks_N int64), with K = min(count, V).

    The first of the K + 1 columns is the chosen token `tokens_N` (int64); then come the most likely ones in descending
    order, equal ones by id. Natural logarithms of softmax(logits), in float32. The rank is 1 plus the number of larger
    logits. `logits_NV` (float32, contiguous) is left as it is.
    """
    logprobs_NV = torch.log_softmax(logits_NV, -1)
    chosen_N1 = tokens_N.unsqueeze(1)
    larger_NV = logits_NV > logits_NV.gather(1, chosen_N1)
    ranks_N = larger_NV.sum(-1, dtype=torch.int32).long() + 1
    ids_NK = _most_likely(logprobs_NV, min(count, logits_NV.shape[1]))
    ids_NK1 = torch.cat([chosen_N1, ids_NK], 1)
    return ids_NK1, logprobs_NV.gather(1, ids_NK1), ranks_N


def _most_likely(logprobs_NV: Tensor, count: int) -> Tensor:
    if count == 0:
        return logprobs_NV.new_empty((len(logprobs_NV), 0), dtype=torch.int64)
    by_id_NK = largest(logprobs_NV, count)[1].sort(-1).values
    order_NK = logprobs_NV.gather(1, by_id_NK).sort(dim=-1, descending=True, stable=True).indices
    return by_id_NK.gather(1, order_NK)
