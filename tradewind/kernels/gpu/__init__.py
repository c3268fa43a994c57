"""What the Triton kernels share. Importing this imports neither Triton nor a GPU library.

Programmatic dependent launch: a kernel of a steady decode may start while the one before it still runs. Until its
`gpu.order.wait` it may read weights only; all that other kernels write comes after.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from tradewind.kernels.choice import Candidate

F = TypeVar("F")

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Chip:
    """What launches depend on. `processors`: multiprocessors. `overlaps`: kernels start before the last one is over.

    `has_block_product`: the vendor's library multiplies 8-bit floats with scales for 128 numbers or 128 x 128.
    """

    processors: int
    overlaps: bool = False
    has_fp8: bool = False
    has_block_product: bool = False

    @property
    def launch(self) -> dict[str, bool]:
        """Options of every launch. Products and sums are fused, which Triton does not always do unless told so."""
        return {"launch_pdl": self.overlaps, "enable_fp_fusion": True}

    @classmethod
    def of(cls, device: torch.device) -> "Chip":
        """Of a CUDA device."""
        properties = torch.cuda.get_device_properties(device)
        capability = (properties.major, properties.minor)
        cuda = tuple(int(part) for part in (torch.version.cuda or "0").split("."))
        has_block_product = capability == (9, 0) and cuda >= (12, 9)
        return cls(properties.multi_processor_count, capability >= (9, 0), capability >= (8, 9), has_block_product)


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """What keeps Triton kernels from running there; None: nothing."""
    if device.type != "cuda":
        return "no GPU is used"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        return f"the GPU is of compute capability {capability[0]}.{capability[1]}, and 8.0 is needed"
    return None if dtype in _DTYPES else f"no kernels for {dtype}"


def candidates(
    device: torch.device,
    dtype: torch.dtype,
    build: Callable[[Chip], F],
    otherwise: F,
    *,
    needs_fp8: bool = False,
    needs_halves: bool = False,
    about: str = "",
) -> list[Candidate[F]]:
    """Triton's implementation as one of an op's candidates; none at all where no GPU is used.

    `build` makes it, and may import Triton; `otherwise` stands in its place where it cannot be used. `about` is for
    people.
    """
    if device.type != "cuda":
        return []
    why = why_not(device, dtype)
    major, minor = torch.cuda.get_device_capability(device)
    chip = Chip.of(device)
    if why is None and needs_fp8 and not chip.has_fp8:
        why = f"the GPU is of compute capability {major}.{minor}, and 8-bit floats need 8.9"
    if why is None and needs_halves and dtype == torch.float32:
        why = "its rows must be in 16 bits"
    run = build(chip) if why is None else otherwise
    return [Candidate("triton", run, lambda _device, _dtype: why, f"Triton, sm_{major}{minor}{about}")]


def next_power_of_2(number: int) -> int:
    """The least power of two that is not below `number` (1 for numbers below 1)."""
    return 1 << max(0, number - 1).bit_length()
