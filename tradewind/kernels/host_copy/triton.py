"""host_copy in Triton: pinned memory has an address on the device, too."""

import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.order import begin

_WORDS = 256  # of a program


@triton.jit(do_not_specialize=["count"])
def host_copy_kernel(source, into, count, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr):
    """`count` words. They were there before the launch, and are on their way at once."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    words = tl.load(source + place, mask=place < count, other=0)
    begin(OVERLAPS)
    tl.store(into + place, words, mask=place < count)


class TritonHostCopy:
    """See `tradewind.kernels.host_copy.HostCopy`."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(self, source_W: Tensor, into_W: Tensor) -> None:
        count = len(source_W)
        if count:
            host_copy_kernel[(triton.cdiv(count, _WORDS),)](
                source_W, into_W, count, OVERLAPS=self._chip.overlaps, BLOCK=_WORDS, num_warps=4,
                **self._chip.launch,
            )  # fmt: skip
