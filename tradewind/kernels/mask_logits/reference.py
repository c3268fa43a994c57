"""mask_logits in torch."""

import torch
from torch import Tensor

from tradewind.kernels.mask_logits import Masked


def mask_logits(logits_RV: Tensor, masked: Masked) -> None:
    """See tradewind.kernels.mask_logits.MaskLogits."""
    shifts_8 = torch.arange(8, dtype=torch.uint8, device=logits_RV.device)
    bits_MB8 = masked.bits_MW.view(torch.uint8).unsqueeze(2) >> shifts_8 & 1
    forbidden_MV = bits_MB8.flatten(1)[:, : logits_RV.shape[1]] == 0
    logits_MV = logits_RV.index_select(0, masked.rows_M).masked_fill_(forbidden_MV, -torch.inf)
    logits_RV.index_copy_(0, masked.rows_M, logits_MV)
