"""embedding in plain torch: the truth."""

from torch import Tensor


def embedding(ids_T: Tensor, weight_VD: Tensor) -> Tensor:
    """See `tradewind.kernels.embedding.Embedding`."""
    return weight_VD.index_select(0, ids_T)
