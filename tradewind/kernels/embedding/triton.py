"""embedding in Triton, so that what follows a step's inputs can be on its way before they are there."""

import torch
import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import begin, release

_MOST_COLUMNS = 2048  # of a program


@triton.jit
def embedding_kernel(ids, weight, out, D, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (t, i): the i-th BLOCK of row t.

    It lets nothing begin before it has waited itself: what comes after it may rely on the step's inputs.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin(OVERLAPS)
    release(OVERLAPS)
    token = tl.load(ids + row).to(tl.int64)
    numbers = tl.load(weight + token * D + column, mask=column < D)
    tl.store(out + row * D + column, numbers, mask=column < D)


class TritonEmbedding:
    """See `tradewind.kernels.embedding.Embedding`."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(self, ids_T: Tensor, weight_VD: Tensor) -> Tensor:
        tokens, width = len(ids_T), weight_VD.shape[1]
        x_TD = torch.empty((tokens, width), dtype=weight_VD.dtype, device=weight_VD.device)
        if tokens:
            block = min(_MOST_COLUMNS, next_power_of_2(width))
            embedding_kernel[(tokens, triton.cdiv(width, block))](
                ids_T, weight_VD, x_TD, width, OVERLAPS=self._chip.overlaps, BLOCK=block, num_warps=4,
                **self._chip.launch,
            )  # fmt: skip
        return x_TD
