"""Kernels are compiled before they are launched, exactly as they will be: proved without a GPU, by the compiler."""

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tradewind.kernels.gpu import ready


def run(mode: str, cache: Path) -> dict[str, Any]:
    """What compiling.py says, in a process of its own: this one has Triton's interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "tests.cpu.triton.compiling", mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_what_was_prepared_is_not_compiled_again(tmp_path: Path) -> None:
    told = run("prepared", tmp_path)
    assert told["told"] == [[done, 10] for done in range(1, 11)]
    assert (told["prepared"], told["compiled"], told["found"]) == (10, 10, 0)
    assert len(told["launched"]) == 10
    assert told["made at launch"] == 0
    # Another process that launches the same kernels finds all of them in Triton's cache.
    later = run("not", tmp_path)
    assert (later["made at launch"], later["compiled at launch"]) == (10, 0)
    assert later["launched"] == told["launched"]


class Kernel:
    """As Triton's: ready once it was loaded before; `error` is why it cannot be."""

    def __init__(self, error: Exception | None = None) -> None:
        self.device_caches: dict[int, tuple[dict[str, object]]] = {0: ({},)}
        self.error = error

    def preload(self, what: str) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        self.device_caches[0][0][what] = compiled = SimpleNamespace(run=None, src=what, metadata=None)
        return compiled


def loading(src: str, _metadata: None) -> tuple[int, str]:
    """Which thread loads the launcher, and of what."""
    return threading.get_ident(), src


def test_what_cannot_be_prepared_is_left_to_its_launch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from triton.runtime import driver

    kernels = [Kernel(), Kernel(RuntimeError("PassManager::run failed")), Kernel()]
    launches = [ready._Launch(kernel, "key", "key") for kernel in kernels]
    monkeypatch.setattr(ready, "_rehearse", lambda _work: launches)
    monkeypatch.setattr(driver, "_active", SimpleNamespace(get_current_device=lambda: 0, launcher_cls=loading))
    told: list[int] = []
    with caplog.at_level(logging.WARNING):
        ready.ReadyKernels(threads=2).prepare(lambda: None, lambda done, _all: told.append(done))
    assert told == [1, 2, 3]
    assert ["key" in kernel.device_caches[0][0] for kernel in kernels] == [True, False, True]
    # Launchers are loaded by one thread.
    launchers = [kernel.device_caches[0][0]["key"]._run for kernel in kernels if kernel.error is None]
    assert launchers == [(threading.get_ident(), "key")] * 2
    (line,) = caplog.records
    assert "first launched" in line.getMessage()
    assert line.__dict__["fields"]["first"] == "RuntimeError: PassManager::run failed"


def test_work_that_cannot_be_rehearsed_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rehearse(_work: object) -> list[ready._Launch]:
        raise AttributeError("a driver of another kind")

    monkeypatch.setattr(ready, "_rehearse", rehearse)
    with caplog.at_level(logging.WARNING):
        ready.ReadyKernels().prepare(lambda: None)
    (line,) = caplog.records
    assert "a driver of another kind" in line.__dict__["fields"]["because"]
