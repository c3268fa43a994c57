"""Which implementation of an op runs, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from tradewind.base.errors import ConfigError

F = TypeVar("F")

# Fastest kind first. `prefer` in `choose` names a kind: those before it are passed over.
KINDS = ("triton", "native", "torch", "reference")


class Device(Protocol):
    """What is chosen for: a torch.device, or what stands for one that is not there (gpu.AbsentGpu)."""

    @property
    def type(self) -> str:
        """`"cpu"` or `"cuda"`."""
        ...


def everywhere(_device: Device, _dtype: torch.dtype) -> str | None:
    """The `unavailable` of an implementation that always works."""
    return None


@dataclass(frozen=True)
class Candidate(Generic[F]):
    """An implementation that might be chosen.

    `unavailable(device, dtype)` says what keeps it from being used there (None: nothing). `about` is for people.
    """

    kind: str
    run: F
    unavailable: Callable[[Device, torch.dtype], str | None] = everywhere
    about: str = ""


@dataclass(frozen=True)
class Choice(Generic[F]):
    """The implementation that runs: its kind, and for people the reason it was chosen."""

    kind: str
    run: F
    reason: str


def pick(candidates: list[Candidate[F]], device: Device, dtype: torch.dtype, prefer: str | None = None) -> Choice[F]:
    """The first candidate (fastest first) that can be used and is not of a faster kind than the preferred one.

    The last candidate must be one that always works. Raises ConfigError if `prefer` is not a kind.
    """
    if prefer is not None and prefer not in KINDS:
        raise ConfigError(f"{prefer!r} is no kind of kernel; there are {', '.join(KINDS)}", field="prefer")
    first = KINDS.index(prefer) if prefer else 0
    passed: list[str] = []
    for candidate in candidates:
        too_fast = KINDS.index(candidate.kind) < first
        why_not = f"{prefer} is preferred" if too_fast else candidate.unavailable(device, dtype)
        if why_not is None:
            reasons = [candidate.about, *passed] if candidate.about else passed
            return Choice(candidate.kind, candidate.run, "; ".join(reasons) or "the only implementation")
        passed.append(f"not {candidate.kind}: {why_not}")
    raise AssertionError(f"no implementation can be used: {passed}")
