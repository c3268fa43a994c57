"""What memory allows: how many KV blocks, and how long a sequence."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tradewind.base.errors import NotEnoughMemory
from tradewind.base.log import fields
from tradewind.base.units import format_bytes

log = logging.getLogger(__name__)

# A model that can hold less than this is of no use to anybody: rather an error than a model shortened so far.
LEAST_MODEL_LEN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryAsk:
    """What is to be fitted. `user_set_len`: the length was asked for, and must not be reduced."""

    max_model_len: int
    user_set_len: bool
    max_running: int
    step_tokens: int
    block_tokens: int
    block_bytes: int
    free_bytes: int  # after the weights have been loaded, without the workspace of a step
    memory_fraction: float  # of free_bytes, for the KV cache
    memory_bytes: int | None  # of the KV cache, if asked for

    @property
    def budget_bytes(self) -> int:
        """What the KV cache may take."""
        if self.memory_bytes is not None:
            return self.memory_bytes
        return max(0, int(self.free_bytes * self.memory_fraction))

    @property
    def blocks_per_sequence(self) -> int:
        return -(-self.max_model_len // self.block_tokens)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What fits: never less than one sequence of `max_model_len`, never more than every slot could use."""

    num_blocks: int
    max_model_len: int


def plan_memory(ask: MemoryAsk) -> MemoryPlan:
    """Divide the budget. Raises NotEnoughMemory saying how much is needed, how much there is and what to change.

    A length that nobody asked for is reduced, with a line in the log, if memory forces it.
    """
    affordable = ask.budget_bytes // ask.block_bytes
    longest = affordable * ask.block_tokens
    if longest >= ask.max_model_len:
        num_blocks = min(affordable, ask.max_running * ask.blocks_per_sequence)
        _check_free(ask, num_blocks * ask.block_bytes)
        return MemoryPlan(num_blocks, ask.max_model_len)
    if ask.user_set_len or longest < LEAST_MODEL_LEN:
        raise _not_enough(ask, longest)
    log.warning(
        "memory holds shorter sequences than the model allows; give more with --memory-bytes",
        extra=fields(model_len=ask.max_model_len, max_model_len=longest, kv_budget=format_bytes(ask.budget_bytes)),
    )
    return plan_memory(replace(ask, max_model_len=longest))


def _check_free(ask: MemoryAsk, kv_bytes: int) -> None:
    """What was asked for may be more than there is."""
    if kv_bytes > ask.free_bytes:
        raise NotEnoughMemory(
            f"--memory-bytes asks for a KV cache of {format_bytes(kv_bytes)}, but only {format_bytes(ask.free_bytes)} "
            "are free beside the weights and what a step takes; ask for less, or free some memory",
            field="memory_bytes",
        )


def _not_enough(ask: MemoryAsk, longest: int) -> NotEnoughMemory:
    needed_bytes = ask.blocks_per_sequence * ask.block_bytes
    if ask.memory_bytes is not None:
        given = f"--memory-bytes gives {format_bytes(ask.memory_bytes)}"
    else:
        given = (
            f"it may take {format_bytes(ask.budget_bytes)} (--memory-fraction {ask.memory_fraction:g} of the "
            f"{format_bytes(ask.free_bytes)} that are free)"
        )
    ways = [f"--max-model-len {longest}"] if longest else []
    ways.append(f"--memory-bytes {needed_bytes}" if needed_bytes <= ask.free_bytes else "more memory free")
    field = "max_model_len" if ask.user_set_len else "memory_bytes"
    return NotEnoughMemory(
        f"the KV cache of one sequence of {ask.max_model_len} tokens needs {format_bytes(needed_bytes)}, but {given}; "
        f"start with {' or '.join(ways)}",
        field=field,
    )


def leaves_enough(copy_bytes: int, ask: MemoryAsk) -> bool:
    """Whether weights may be kept a second time where nobody said so; `ask` is as without that.

    It may take an eighth of the blocks that all slots could use, nothing of a cache whose size was asked for, and no
    sequence becomes shorter by it.
    """
    left_bytes = int((ask.free_bytes - copy_bytes) * ask.memory_fraction)
    if ask.memory_bytes is not None:
        return left_bytes >= ask.memory_bytes
    most = ask.max_running * ask.blocks_per_sequence
    before, after = (min(most, budget // ask.block_bytes) for budget in (ask.budget_bytes, left_bytes))
    return after >= max(ask.blocks_per_sequence, before * 7 / 8)


def check_weights(weights_bytes: int, free_bytes: int) -> None:
    """Before loading: NotEnoughMemory if the weights cannot fit."""
    if weights_bytes > free_bytes:
        raise NotEnoughMemory(
            f"the weights need {format_bytes(weights_bytes)}, but only {format_bytes(free_bytes)} of memory are free; "
            f"free some, or use a smaller model or --dtype bfloat16",
            field="model",
        )


def free_host_bytes(root: Path = Path("/")) -> int:
    """Memory that this process could still take: what the machine has free, within the limits of its cgroups.

    `root` is where /proc and /sys are looked for.
    """
    frees = list(_cgroup_frees(root))
    machine = _meminfo_available(root / "proc/meminfo")
    if machine is not None:
        frees.append(machine)
    elif not frees:  # not Linux: half of all memory is a safe guess
        frees.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return max(0, min(frees))


def _meminfo_available(path: Path) -> int | None:
    for line in _lines(path):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_frees(root: Path) -> Iterator[int]:
    """What each limiting cgroup of this process, and each one above it, has left (cgroups v2 and v1)."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage, reclaimable = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, reclaimable = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        for folder in _upwards(root / base, path):
            limit_bytes, used_bytes = _number(folder / limit), _number(folder / usage)
            if limit_bytes is not None and used_bytes is not None:
                yield limit_bytes - used_bytes + _stat(folder / "memory.stat", reclaimable)


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """The folder of a cgroup and of those above it, up to `base` (in a container, the container's own)."""
    parts = [part for part in path.strip("/").split("/") if part and part != ".."]
    for length in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:length])


def _number(path: Path) -> int | None:
    """The number in a file; None if there is none ("max")."""
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdigit() else None


def _stat(path: Path, key: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[:1] == [key]), 0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
