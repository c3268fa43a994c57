"""What the contexts of tokens cost beside the rest of a step: from a model's shape, and what kinds of devices reach."""

from collections import Counter
from dataclasses import dataclass

import torch

from tradewind.kernels.choice import Device
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.models.spec import ModelSpec
from tradewind.protocol.cost import ContextCost


@dataclass(frozen=True, slots=True)
class Pace:
    """Of the kernels of a kind of device.

    `attention`: operations a second of attention over long contexts, by those of products; `beside_8_bit`: of products
    in 8 bits. `per_byte`: operations that attention does in the time of reading a byte of keys and values.
    """

    attention: float
    beside_8_bit: float
    per_byte: float


# As measured (docs/performance.md). They need not be right for each machine: wrong by half, a step at the end of a long
# prompt takes half as long again as one at its beginning, where it would take ten times as long without them.
PACES = {"cpu": Pace(0.8, 0.27, 9), "cuda": Pace(0.5, 0.2, 120)}


def context_cost(
    spec: ModelSpec, device: Device, quantisation: Quantisation | None, kv_dtype: torch.dtype
) -> ContextCost:
    """For a model whose weights and keys and values are of these types."""
    pace = PACES[device.type]
    in_8_bit = (
        quantisation is not None and not quantisation.is_lossless and (device.type == "cpu" or quantisation.is_float)
    )
    weights = spec.hidden * spec.head_dim * 2 * (spec.heads + spec.kv_heads) + 3 * spec.hidden * spec.ffn
    products = 2 * weights * spec.layers * (pace.beside_8_bit if in_8_bit else pace.attention)
    of_pair = 4 * spec.heads * spec.head_dim  # a query with a key, and the value that it weighs
    pair_bytes = 2 * spec.kv_heads * spec.head_dim * kv_dtype.itemsize
    return ContextCost(
        kinds=tuple((layers * of_pair / products, window) for window, layers in Counter(spec.windows).items()),
        least_tokens=max(1.0, pace.per_byte * pair_bytes / of_pair),
    )
