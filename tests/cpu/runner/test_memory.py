"""What memory allows."""

from dataclasses import replace
from pathlib import Path

import pytest

from tradewind.base.errors import NotEnoughMemory
from tradewind.runner.machine import bfloat16_feature, cpu_features, usable_cpus
from tradewind.runner.memory import MemoryAsk, check_weights, free_host_bytes, leaves_enough, plan_memory

ASK = MemoryAsk(
    max_model_len=1000,
    user_set_len=False,
    max_running=8,
    step_tokens=64,
    block_tokens=16,
    block_bytes=1000,
    free_bytes=10_000_000,
    memory_fraction=0.5,
    memory_bytes=None,
)


def test_takes_no_more_than_every_slot_could_use() -> None:
    plan = plan_memory(ASK)
    assert (plan.num_blocks, plan.max_model_len) == (8 * 63, 1000)


def test_takes_a_fraction_of_what_is_free() -> None:
    assert plan_memory(replace(ASK, free_bytes=200_000)).num_blocks == 100


def test_memory_bytes_decide_where_they_are_given() -> None:
    assert plan_memory(replace(ASK, memory_bytes=70_999)).num_blocks == 70


def test_shortens_sequences_only_if_nobody_asked_for_their_length(caplog: pytest.LogCaptureFixture) -> None:
    tight = replace(ASK, free_bytes=66_000, memory_fraction=0.46)  # 30 blocks of 16 tokens
    plan = plan_memory(tight)
    assert (plan.num_blocks, plan.max_model_len) == (30, 480)
    assert "shorter sequences" in caplog.text
    with pytest.raises(
        NotEnoughMemory, match=r"1000 tokens needs 61\.52 KiB.*--max-model-len 480 or --memory-bytes 63000"
    ):
        plan_memory(replace(tight, user_set_len=True))


@pytest.mark.parametrize(
    ("change", "way"),
    [
        ({"free_bytes": 100}, "more memory free"),
        ({"memory_bytes": 999}, "--memory-bytes 63000"),
        ({"free_bytes": 6000}, "more memory free"),
        ({"free_bytes": 63_000, "memory_fraction": 0.05}, "--memory-bytes 63000"),
    ],
)
def test_refuses_when_hardly_anything_fits(change: dict[str, int], way: str) -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        plan_memory(replace(ASK, **change))
    assert caught.value.message.endswith(way)
    assert caught.value.field == "memory_bytes"


def test_memory_bytes_beyond_what_is_free_are_refused() -> None:
    most = 8 * 63 * 1000  # what all slots could use
    assert plan_memory(replace(ASK, free_bytes=most, memory_bytes=10 * most)).num_blocks == 8 * 63
    with pytest.raises(NotEnoughMemory, match=r"but only 492\.19 KiB are free") as caught:
        plan_memory(replace(ASK, free_bytes=most - 1, memory_bytes=10 * most))
    assert caught.value.field == "memory_bytes"


def test_a_suggested_length_fits() -> None:
    asked = replace(ASK, free_bytes=66_000, memory_fraction=0.46, user_set_len=True)
    with pytest.raises(NotEnoughMemory):
        plan_memory(asked)
    assert plan_memory(replace(asked, max_model_len=480)).num_blocks == 30
    assert plan_memory(replace(asked, memory_bytes=63_000)).max_model_len == 1000


def test_weights_that_cannot_fit_are_refused_before_loading() -> None:
    check_weights(5, 5)
    with pytest.raises(NotEnoughMemory, match=r"weights need 2\.00 GiB, but only 1\.00 GiB"):
        check_weights(2 * 2**30, 2**30)


# Llama 3.1 8B in bfloat16: its weights, those of its linear layers in 12 bits, and a block of 16 tokens.
LLAMA_BYTES, LLAMA_COPY_BYTES = 16_060_000_000, 11_260_000_000
LLAMA = replace(ASK, max_model_len=131_072, max_running=256, block_bytes=2_097_152, memory_fraction=0.92)
H100, H200 = 85_000_000_000, 150_000_000_000


@pytest.mark.parametrize(
    ("free_bytes", "changes", "expected"),
    [
        (H200, {}, True),
        (H100, {}, False),
        (H100, {"max_running": 8, "max_model_len": 8192}, True),  # they could not use what the copy takes
        (H100, {"max_running": 8, "max_model_len": 65_536}, False),
        (H200, {"max_running": 1, "max_model_len": 1_000_000}, False),  # one sequence would not fit any more
        (H200, {"memory_bytes": 100_000_000_000}, True),
        (H200, {"memory_bytes": 115_000_000_000}, False),  # what was asked for would not fit any more
        (LLAMA_BYTES, {}, False),
    ],
)
def test_a_copy_leaves_what_the_kv_cache_could_use(free_bytes: int, changes: dict[str, int], expected: bool) -> None:
    ask = replace(LLAMA, free_bytes=free_bytes - LLAMA_BYTES, **changes)
    assert leaves_enough(LLAMA_COPY_BYTES, ask) == expected


def test_a_copy_takes_no_more_than_an_eighth() -> None:
    ask = replace(ASK, free_bytes=1_600_000, max_running=100)  # of which 800 blocks are for the KV cache
    assert leaves_enough(200_000, ask)
    assert not leaves_enough(202_000, ask)


# --- the machine -----------------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 16000 kB\nMemFree: 1000 kB\nMemAvailable: 8000 kB\n"}


def test_free_memory_without_cgroups(tmp_path: Path) -> None:
    assert free_host_bytes(write(tmp_path, MEMINFO)) == 8000 * 1024


def test_the_tightest_cgroup_above_the_process_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/box\n",
        "sys/fs/cgroup/pod/box/memory.max": "max\n",
        "sys/fs/cgroup/pod/box/memory.current": "900000\n",
        "sys/fs/cgroup/pod/memory.max": "3000000\n",
        "sys/fs/cgroup/pod/memory.current": "1000000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 1\ninactive_file 500000\n",
    }
    assert free_host_bytes(write(tmp_path, MEMINFO | files)) == 2_500_000


def test_a_container_sees_its_limit_at_the_top(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "2000000\n",
        "sys/fs/cgroup/memory.current": "500000\n",
    }
    assert free_host_bytes(write(tmp_path, MEMINFO | files)) == 1_500_000


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/box\n0::/\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "4000000\n",
        "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "1000000\n",
        "sys/fs/cgroup/memory/box/memory.stat": "total_inactive_file 100\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
    }
    assert free_host_bytes(write(tmp_path, MEMINFO | files)) == 3_000_100


def test_a_cgroup_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "100\n",
        "sys/fs/cgroup/memory.current": "500\n",
    }
    assert free_host_bytes(write(tmp_path, MEMINFO | files)) == 0


def test_this_machine_has_memory_and_cores() -> None:
    assert free_host_bytes() > 2**20
    assert usable_cpus() >= 1


def test_a_cpu_quota_limits_the_cores(tmp_path: Path) -> None:
    assert usable_cpus(write(tmp_path / "one", {"sys/fs/cgroup/cpu.max": "100000 100000\n"})) == 1
    everything = usable_cpus(write(tmp_path / "all", {"sys/fs/cgroup/cpu.max": "max 100000\n"}))
    assert usable_cpus(write(tmp_path / "less", {"sys/fs/cgroup/cpu.max": "20000 100000\n"})) == 1
    old = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    assert usable_cpus(write(tmp_path / "old", old)) == everything


def test_reads_what_the_cpu_can_do(tmp_path: Path) -> None:
    intel = write(tmp_path, {"cpuinfo": "processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n"}) / "cpuinfo"
    assert bfloat16_feature(cpu_features(intel)) == "avx512_bf16"
    assert bfloat16_feature(frozenset({"avx2"})) is None
    assert cpu_features(tmp_path / "missing") == frozenset()
