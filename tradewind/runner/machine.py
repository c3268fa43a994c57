"""The machine's processors: how many this process may use, and what they can do. No torch."""

import os
from pathlib import Path

# CPUs with one of these multiply bfloat16 in hardware (x86: AVX512-BF16, AMX; ARM: BF16).
_BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")


def usable_cpus(root: Path = Path("/")) -> int:
    """Cores this process may use: its affinity, within the CPU quota of its cgroup. At least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return max(1, cores if quota is None else min(cores, round(quota)))


def _quota(root: Path) -> float | None:
    """The quota in cores, of cgroups v2 or v1; None without one."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        folder = root / "sys/fs/cgroup/cpu"
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(quota) / int(period) if quota.isdigit() and int(period) else None


def cpu_features(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The flags of the first processor; none where the system does not say."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(flags.split())
    return frozenset()


def bfloat16_feature(features: frozenset[str]) -> str | None:
    """What makes bfloat16 fast on a CPU with these features; None if nothing does."""
    return next((feature for feature in _BFLOAT16_FEATURES if feature in features), None)
