"""The pool of KV blocks: which are free, and how many sequences hold each of the others."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]


class BlockPool:
    """Block ids 0..num_blocks-1, their holders, and a stack of the blocks that are free and empty.

    The stack gives back what was freed last: memory that was touched once is used again before memory that never was,
    which keeps the resident size at what the load needs. A block with no holder that is not on the stack is kept by
    the prefix index (see prefix.py), which decides when to `recycle` it.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.holders: Int32s = np.zeros(num_blocks, np.int32)
        self._stack: Int32s = np.arange(num_blocks - 1, -1, -1, dtype=np.int32)
        self._free_blocks = num_blocks

    @property
    def free_blocks(self) -> int:
        """Blocks on the stack."""
        return self._free_blocks

    @property
    def free_ids(self) -> "Int32s":
        """The blocks on the stack, the next to be given last."""
        return self._stack[: self._free_blocks]

    def pop(self, count_blocks: int) -> "Int32s":
        """Take `count_blocks` from the stack; each gets one holder. There must be as many."""
        rest = self._free_blocks - count_blocks
        assert rest >= 0, (count_blocks, self._free_blocks)
        taken = self._stack[rest : self._free_blocks][::-1].copy()
        self._free_blocks = rest
        self.holders[taken] = 1
        return taken

    def push(self, blocks: "Int32s") -> None:
        """Blocks that have no holder and no reusable content go back on the stack; the last becomes the next given."""
        self._stack[self._free_blocks : self._free_blocks + len(blocks)] = blocks
        self._free_blocks += len(blocks)
