"""What the Triton kernels share. Importing this imports neither Triton nor a GPU library.

Programmatic dependent launch: a kernel of a steady decode may start while the one before it still runs. Until its
`gpu.order.begin` it may read weights, the step's `Rows`, and the keys and values that earlier steps wrote: between what
writes those and the layers comes the embedding, which lets nothing begin before all before it is over. All else that
other kernels write comes after.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from tradewind.kernels.choice import Candidate, Device

F = TypeVar("F")

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LEAST_CAPABILITY = (8, 0)

# What a program may have of a multiprocessor's shared memory, by compute capability; what is not listed has the last.
_SHARED_BYTES = {(8, 0): 166_912, (8, 7): 166_912, (9, 0): 232_448, (10, 0): 232_448, (10, 3): 232_448}
_LEAST_SHARED_BYTES = 101_376

# Up to so many tokens a step is short enough to gain from kernels that begin early, and there is room for them.
FEW_TOKENS = 64


@dataclass(frozen=True)
class Chip:
    """What launches depend on. `processors`: multiprocessors. `overlaps`: kernels start before the last one is over.

    `has_block_product`: the vendor's library multiplies 8-bit floats with scales for 128 numbers or 128 x 128.
    `name`: the card's. `shared_bytes`: of shared memory, for a program.
    """

    processors: int
    overlaps: bool = False
    has_fp8: bool = False
    has_block_product: bool = False
    capability: tuple[int, int] = _LEAST_CAPABILITY
    name: str = ""
    shared_bytes: int = _SHARED_BYTES[9, 0]

    @property
    def has_tma(self) -> bool:
        """Whether it has a tensor memory accelerator: a unit that brings whole tiles into shared memory."""
        return self.capability >= (9, 0)

    @property
    def has_float32_product(self) -> bool:
        """Whether the vendor's library gives float32 of 8-bit floats with a scale a row, which came with its blocks."""
        return self.has_block_product

    def stages(self, wanted: int, stage_bytes: int, beside_bytes: int = 0) -> int:
        """How many of the wanted stages of a pipeline have room in shared memory; two at least, if so many are wanted.

        One more than lie there: what is multiplied is in registers already. (Where tensor cores read shared memory,
        on Hopper, that one lies there, too, but what was measured there has run.)
        """
        return min(wanted, max(2, 1 + (self.shared_bytes - beside_bytes) // stage_bytes))

    @property
    def launch(self) -> dict[str, bool]:
        """Options of every launch. Products and sums are fused, which Triton does not always do unless told so."""
        return {"launch_pdl": self.overlaps, "enable_fp_fusion": True}

    @classmethod
    def of(cls, device: Device) -> "Chip":
        """Of a CUDA device, or of what stands for one."""
        if isinstance(device, AbsentGpu):
            return replace(device.chip, name=device.name)
        assert isinstance(device, torch.device)
        properties = torch.cuda.get_device_properties(device)
        cuda = tuple(int(part) for part in (torch.version.cuda or "0").split("."))
        chip = cls.like((properties.major, properties.minor), properties.multi_processor_count, cuda)
        return replace(chip, name=properties.name)

    @classmethod
    def like(cls, capability: tuple[int, int], processors: int, cuda: tuple[int, ...] = (13, 0)) -> "Chip":
        """Of such a compute capability, with torch for such a version of CUDA."""
        has_block_product = capability == (9, 0) and cuda >= (12, 9)
        shared_bytes = _SHARED_BYTES.get(capability, _LEAST_SHARED_BYTES)
        return cls(
            processors, capability >= (9, 0), capability >= (8, 9), has_block_product, capability, "", shared_bytes
        )


@dataclass(frozen=True)
class AbsentGpu:
    """Stands for a GPU that is not there: what would run on it can be asked, and nothing can be run."""

    name: str
    chip: Chip
    memory_bytes: int
    type: str = "cuda"


# By the names that people use for them.
ABSENT_GPUS = {
    "a100": AbsentGpu("NVIDIA A100 80GB", Chip.like((8, 0), 108), 80 << 30),
    "l40s": AbsentGpu("NVIDIA L40S", Chip.like((8, 9), 142), 48 << 30),
    "h100": AbsentGpu("NVIDIA H100 80GB", Chip.like((9, 0), 132), 80 << 30),
    "h200": AbsentGpu("NVIDIA H200", Chip.like((9, 0), 132), 141 << 30),
    "b200": AbsentGpu("NVIDIA B200", Chip.like((10, 0), 148), 180 << 30),
}


def why_not(device: Device, dtype: torch.dtype) -> str | None:
    """What keeps Triton kernels from running there; None: nothing."""
    if device.type != "cuda":
        return "no GPU is used"
    if importlib.util.find_spec("triton") is None and not isinstance(device, AbsentGpu):
        return "Triton is not installed"
    capability = Chip.of(device).capability
    if capability < _LEAST_CAPABILITY:
        return f"the GPU is of compute capability {capability[0]}.{capability[1]}, and 8.0 is needed"
    return None if dtype in _DTYPES else f"no kernels for {dtype}"


def may_fuse(device: Device, dtype: torch.dtype, *, exact: bool) -> bool:
    """Whether several ops may be one kernel there: where Triton runs, in 16 bits, with sums that depend on the step."""
    return not exact and why_not(device, dtype) is None and dtype != torch.float32


def candidates(
    device: Device,
    dtype: torch.dtype,
    build: Callable[[Chip], F],
    otherwise: F,
    *,
    needs_fp8: bool = False,
    needs_halves: bool = False,
    about: str = "",
) -> list[Candidate[F]]:
    """Triton's implementation as one of an op's candidates; none at all where no GPU is used.

    `build` makes it, and may import Triton; `otherwise` stands in its place where it cannot be used, or the GPU is not
    there. `about` is for people.
    """
    if device.type != "cuda":
        return []
    why = why_not(device, dtype)
    chip = Chip.of(device)
    major, minor = chip.capability
    if why is None and needs_fp8 and not chip.has_fp8:
        why = f"the GPU is of compute capability {major}.{minor}, and 8-bit floats need 8.9"
    if why is None and needs_halves and dtype == torch.float32:
        why = "its rows must be in 16 bits"
    run = build(chip) if why is None and not isinstance(device, AbsentGpu) else otherwise
    return [Candidate("triton", run, lambda _device, _dtype: why, f"Triton, sm_{major}{minor}{about}")]


def next_power_of_2(number: int) -> int:
    """The least power of two that is not below `number` (1 for numbers below 1)."""
    return 1 << max(0, number - 1).bit_length()
