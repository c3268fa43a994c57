"""What `bench gpu` measures, and what it leaves out, with a device that computes nothing."""

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tradewind.base.clock import SystemClock
from tradewind.base.errors import ConfigError
from tradewind.bench import gpu
from tradewind.config import CacheConfig, SchedulerConfig
from tradewind.engine.core import Engine
from tradewind.protocol.plan import RunnerInfo
from tradewind.runner.fake import FakeRunner
from tradewind.scheduler.scheduler import Scheduler

# Fewer blocks than all rows would need: then as many run as have room.
INFO = RunnerInfo(
    num_blocks=75 * 90, block_tokens=16, max_model_len=4352, max_running=128, step_tokens=8192, vocab_size=1000,
    asynchronous=True, device="fake", dtype="none", weights_bytes=0, kv_bytes=0,
)  # fmt: skip


def test_profiles_are_of_full_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, clock = FakeRunner(INFO, verify=False), SystemClock()
    engine = Engine(Scheduler(INFO, SchedulerConfig(), CacheConfig(prefix_caching=False), clock), runner, clock)
    computed: list[int] = []
    run = runner.run

    def watched(plan: Any) -> Any:
        computed.append(int(plan.new_tokens.sum()))
        return run(plan)

    monkeypatch.setattr(runner, "run", watched)
    seen: list[list[int]] = []

    def profiled(step: Callable[[], object], count: int, layers: int) -> str:
        assert layers == 2
        before = len(computed)
        for _ in range(count):
            step()
        seen.append(computed[before:])
        return "a table"

    monkeypatch.setattr(gpu, "profile_steps", profiled)
    gpu._profile(gpu._Model(engine, SimpleNamespace(info=INFO, spec=SimpleNamespace(layers=2))), "fp8")
    assert seen == [[1] * 10, [64] * 10, [90] * 10, [8192] * 4]
    assert not engine.has_work


def test_decodes_that_cannot_run_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = SimpleNamespace(info=INFO, report=SimpleNamespace(replays=0, eager=0))
    monkeypatch.setattr(gpu, "_engine", lambda _options, _form: nullcontext(gpu._Model(None, runner)))
    monkeypatch.setattr(gpu, "_decode", lambda _model, _form, batch, _copy: {"batch": batch})
    options = SimpleNamespace(parts=["decode"], batch=[1, 87, 88, 129])  # 77 blocks a row
    assert list(gpu._in_process(options, "fp8", 1.0)) == [{"batch": 1}, {"batch": 87}]
    assert capsys.readouterr().out.count("cannot run at once") == 2


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="bench gpu needs a GPU: torch finds no CUDA device"):
        gpu.main(["model"])
