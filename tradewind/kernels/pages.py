"""The KV pool: where the keys and values of all sequences live, in blocks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tradewind.kernels.int8_pages import row_width
from tradewind.kernels.memory import empty


@dataclass(frozen=True)
class KVPool:
    """All KV blocks of one device, block-major over layers: a block is one contiguous piece of memory.

    `blocks_BL2GSK[b, l, 0, g, s]` is the key, and `[b, l, 1, g, s]` the value, of head g of layer l for the token at
    offset s of block b. Keys are stored after qk-norm and rotary. Places that no token was written to are garbage.
    A uint8 pool has 8-bit pages (int8_pages.py), whose rows are a scale longer than K.
    """

    blocks_BL2GSK: Tensor

    @classmethod
    def allocate(
        cls,
        shape: "PoolShape",
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> "KVPool":
        """A pool of uninitialised memory: pages are touched when they are first written."""
        return cls(empty(shape.as_tuple(dtype), dtype, device))

    @property
    def num_blocks(self) -> int:
        return self.blocks_BL2GSK.shape[0]

    @property
    def block_tokens(self) -> int:
        return self.blocks_BL2GSK.shape[4]

    @property
    def nbytes(self) -> int:
        return self.blocks_BL2GSK.nbytes

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """(k_pages_BGSK, v_pages_BGSK) of a layer: views with the pool's strides, dense in [G, S, K]."""
        return self.blocks_BL2GSK[:, index, 0], self.blocks_BL2GSK[:, index, 1]


def to_next_layer(k_pages_BGSK: Tensor, v_pages_BGSK: Tensor) -> int:
    """How many numbers on from a layer's pages those of the next layer lie; back, if it is the pool's last, to its
    first. 0 for pages that are not as `KVPool.layer` gives them.
    """
    first, block_size = int(k_pages_BGSK.storage_offset()), k_pages_BGSK.stride(0)
    layer_size = 2 * (int(v_pages_BGSK.storage_offset()) - first)
    if not 0 < layer_size <= block_size:
        return 0
    is_last = first + layer_size >= block_size
    return layer_size - block_size if is_last else layer_size


@dataclass(frozen=True)
class PoolShape:
    """The dimensions of a pool."""

    num_blocks: int
    layers: int
    kv_heads: int
    block_tokens: int
    head_dim: int

    def as_tuple(self, dtype: torch.dtype) -> tuple[int, int, int, int, int, int]:
        """The shape of `blocks_BL2GSK` for a pool of `dtype`."""
        width = row_width(self.head_dim, dtype)
        return (self.num_blocks, self.layers, 2, self.kv_heads, self.block_tokens, width)

    def block_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of one block, over all layers."""
        return math.prod(self.as_tuple(dtype)[1:]) * dtype.itemsize
