"""host_copy in Triton: pinned memory has an address on the device, too."""

import triton
from torch import Tensor
from triton import language as tl

from tradewind.kernels.gpu import Chip, next_power_of_2
from tradewind.kernels.gpu.order import begin

_MOST_WORDS = 16384  # that are on their way at once
_WORDS_OF_WARP = 256


@triton.jit(do_not_specialize=["count"])
def host_copy_kernel(ring, turn, into, count, turns, OVERLAPS: tl.constexpr, BLOCK: tl.constexpr):
    """One program: the turn is read, and passes on. `count` words of each of `turns` rows."""
    begin(OVERLAPS)
    row = tl.load(turn)
    each = tl.arange(0, BLOCK)
    for place in range(0, count, BLOCK):
        words = tl.load(ring + row * count + place + each, mask=place + each < count, other=0)
        tl.store(into + place + each, words, mask=place + each < count)
    tl.debug_barrier()  # all threads have read the turn
    tl.store(turn, (row + 1) % turns)


class TritonHostCopy:
    """See `tradewind.kernels.host_copy.HostCopy`."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip

    def __call__(self, ring_UW: Tensor, turn_1: Tensor, into_W: Tensor) -> None:
        turns, count = ring_UW.shape
        block = min(_MOST_WORDS, next_power_of_2(count))
        host_copy_kernel[(1,)](
            ring_UW, turn_1, into_W, count, turns, OVERLAPS=self._chip.overlaps, BLOCK=block,
            num_warps=min(32, max(1, block // _WORDS_OF_WARP)), **self._chip.launch,
        )  # fmt: skip
