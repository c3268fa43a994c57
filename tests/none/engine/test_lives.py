"""AsyncEngine: how an engine process starts, dies, hangs, comes back and ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from fake_engine import command, config_for
from test_client import ENDLESS, expected, is_quiet, read, until

from tradewind.base.errors import (
    CheckpointError,
    EngineFailed,
    EngineUnavailable,
    ModelNotFound,
    NotEnoughMemory,
    StartupError,
)
from tradewind.engine import supervisor
from tradewind.engine.client import AsyncEngine
from tradewind.engine.supervisor import Restarts
from tradewind.protocol.sampling import SamplingParams

SLOW = {"cost_s": 0.005}
SHORT = SamplingParams(seed=4, max_tokens=5, ignore_eos=True)
SOON_S = 5.0  # on a machine that does other things as well


def is_gone(pid):
    """Whether the process has ended (a zombie of somebody else's has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def fails_soon(stream):
    """The error that ends the stream, which must come soon."""
    started_s = time.monotonic()
    with pytest.raises(EngineFailed) as caught:
        await read(stream)
    assert time.monotonic() - started_s < SOON_S
    return caught.value


async def works(engine):
    """The engine answers as it should."""
    _, tokens, _ = await read(engine.submit([1, 2], SHORT))
    assert tokens[0] == expected([1, 2], SHORT)


async def test_kill_9_under_load_fails_all_at_once_and_the_engine_comes_back(start_engine):
    engine = await start_engine(SLOW)
    first_pid = engine.pid
    streams = [engine.submit([index, 3], ENDLESS) for index in range(20)]
    for stream in streams:
        await anext(stream)
    os.kill(first_pid, signal.SIGKILL)
    errors = await asyncio.gather(*map(fails_soon, streams))
    assert all("SIGKILL" in error.message and "send it again" in error.message for error in errors)
    assert engine.state == "restarting"
    assert "SIGKILL" in engine.failure
    with pytest.raises(EngineUnavailable) as caught:
        engine.submit([1], SHORT)
    assert (caught.value.status, caught.value.retry_after_s >= 1.0) == (503, True)
    await until(lambda: engine.state == "ready")
    assert engine.failure is None
    assert engine.pid != first_pid
    await works(engine)
    await until(lambda: is_quiet(engine))


async def test_a_step_that_hangs_is_noticed(start_engine, tmp_path):
    hang = {"hung_steps": [2], "first_life": str(tmp_path / "lived"), "later_lives": {}}
    engine = await start_engine(hang, step_timeout_s=0.3)
    error = await fails_soon(engine.submit([1, 2], ENDLESS))
    assert "hung (a step has not ended for" in error.message
    await until(lambda: engine.state == "ready")
    await works(engine)


async def test_a_process_that_stands_still_is_noticed(start_engine, monkeypatch):
    monkeypatch.setattr(supervisor, "_SILENCE_S", 0.8)
    engine = await start_engine(SLOW, step_timeout_s=0.2)
    stream = engine.submit([1, 2], ENDLESS)
    await anext(stream)
    os.kill(engine.pid, signal.SIGSTOP)
    error = await fails_soon(stream)
    assert "nothing was heard from it" in error.message
    await until(lambda: engine.state == "ready")


async def test_a_long_queue_of_short_steps_is_no_hang(start_engine):
    engine = await start_engine({"cost_s": 0.05}, step_timeout_s=0.6)
    pid = engine.pid
    await read(engine.submit([1, 2], SamplingParams(max_tokens=20, ignore_eos=True)))
    assert engine.pid == pid


async def test_a_step_that_raises_says_why(start_engine, tmp_path):
    broken = {"broken_steps": [2], "first_life": str(tmp_path / "lived"), "later_lives": {}}
    engine = await start_engine(broken, log_level="error")
    error = await fails_soon(engine.submit([1, 2], ENDLESS))
    assert "RuntimeError: the device is on fire" in error.message
    await until(lambda: engine.state == "ready")
    await works(engine)


async def test_after_too_many_restarts_it_is_given_up(start_engine, tmp_path):
    dying = {"first_life": str(tmp_path / "lived"), "later_lives": {"exit": True}}
    engine = await start_engine(dying, max_restarts=2)
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: engine.state == "failed")
    assert "restarted 2 times" in engine.failure
    assert "ended with code 3" in engine.failure
    with pytest.raises(EngineUnavailable, match="has failed"):
        engine.submit([1], SHORT)
    assert engine.pid is None


async def test_memory_that_others_take_for_a_while_is_waited_for(start_engine, tmp_path):
    for kind, state in (("NotEnoughMemory", "ready"), ("CheckpointError", "failed")):
        options = {"first_life": str(tmp_path / kind), "later_lives": {"startup_error": kind}}
        engine = await start_engine(options, max_restarts=2)
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda engine=engine: engine.state != "ready")
        await until(lambda engine=engine: engine.state != "restarting")
        assert engine.state == state


def test_restarts_pause_longer_each_time_and_are_forgotten():
    restarts = Restarts(3, first_pause_s=0.5)
    assert [restarts.next_pause_s(now_s) for now_s in (0.0, 1.0, 2.0, 3.0)] == [0.0, 0.5, 1.0, None]
    assert restarts.next_pause_s(601.5) == 0.5
    assert Restarts(0).next_pause_s(0.0) is None
    many = Restarts(20)
    assert max(many.next_pause_s(0.0) for _ in range(20)) == 30.0


async def test_startup_errors_keep_their_kind(model_directory):
    for kind in (CheckpointError, NotEnoughMemory):
        engine = AsyncEngine(config_for(model_directory), command=command({"startup_error": kind.__name__}))
        with pytest.raises(kind, match="try another") as caught:
            await engine.boot()
        assert caught.value.field == "model"
        assert engine.state == "failed"
        await engine.close()


async def test_a_process_that_dies_while_it_boots_is_a_startup_error(model_directory, tmp_path):
    (tmp_path / "lived").touch()
    options = {"first_life": str(tmp_path / "lived"), "later_lives": {"exit": True}}
    engine = AsyncEngine(config_for(model_directory), command=command(options))
    with pytest.raises(StartupError, match="ended with code 3"):
        await engine.boot()
    await engine.close()


async def test_what_is_raised_while_it_boots_is_a_startup_error(model_directory):
    engine = AsyncEngine(config_for(model_directory), command=command({"startup_error": "EngineFailed"}))
    with pytest.raises(StartupError, match="the engine failed while it started: EngineFailed: no such thing"):
        await engine.boot()
    await engine.close()


async def test_an_unknown_model_starts_no_process(tmp_path):
    with pytest.raises(ModelNotFound):
        await AsyncEngine.start(config_for(tmp_path / "none"))


async def test_the_usual_command_boots_the_fake_device(model_directory):
    told = []
    engine = await AsyncEngine.start(config_for(model_directory), lambda stage, share: told.append(stage))
    assert engine.ready.device == "fake"
    assert engine.state == "ready"
    await read(engine.submit([1, 2], SHORT))
    await engine.close()


async def test_close_ends_the_process_and_leaves_nothing(start_engine):
    engine = await start_engine(SLOW)
    folder, pid = engine._supervisor._folder, engine.pid
    assert folder.exists()
    assert folder.stat().st_mode & 0o077 == 0
    stream = engine.submit([1], ENDLESS)
    await engine.close()
    await engine.close()
    assert is_gone(pid)
    assert not folder.exists()
    with pytest.raises(EngineFailed, match="closed"):
        await read(stream)


async def test_close_while_booting(model_directory):
    engine = AsyncEngine(config_for(model_directory), command=command({}))
    booting = asyncio.create_task(engine.boot())
    await until(lambda: engine.pid is not None)
    pid = engine.pid
    with pytest.raises(EngineUnavailable, match="starting"):
        engine.submit([1], SHORT)
    booting.cancel()
    await asyncio.gather(booting, return_exceptions=True)
    await engine.close()
    assert is_gone(pid)


async def test_signals_for_the_group_leave_the_engine_alone(start_engine):
    engine = await start_engine(SLOW)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, number)
    await works(engine)
    assert os.getsid(engine.pid) != os.getsid(0)


async def test_an_idle_engine_uses_no_cpu(start_engine):
    engine = await start_engine()
    await works(engine)
    await asyncio.sleep(1.2)  # the cache is looked over once, a second after the last request
    process = psutil.Process(engine.pid)
    for _ in range(4):  # on a busy machine it is late
        before, switches = process.cpu_times(), process.num_ctx_switches().voluntary
        await asyncio.sleep(1.0)
        after, woken = process.cpu_times(), process.num_ctx_switches().voluntary - switches
        if after.user + after.system - before.user - before.system < 0.02 and woken < 5:
            return
    raise AssertionError(f"woken {woken} times in a second")


PARENT = """
import asyncio, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from fake_engine import command, config_for
from tradewind.engine.client import AsyncEngine

async def main():
    engine = AsyncEngine(config_for(Path(sys.argv[3])), command=command({}))
    await engine.boot()
    print(engine.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("stands_still", [False, True])
def test_the_engine_ends_when_its_parent_is_killed(model_directory, stands_still):
    folders = [str(Path(__file__).parent), str(Path(supervisor.__file__).parents[2])]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *folders, str(model_directory)], stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    assert not is_gone(pid)
    if stands_still:
        os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end_s = time.monotonic() + SOON_S
    while not is_gone(pid):
        assert time.monotonic() < end_s
        time.sleep(0.01)


async def test_memory_and_descriptors_stay_flat_over_restarts(start_engine):
    engine = await start_engine(max_restarts=10)
    supervisor_pause, process = Restarts(100, first_pause_s=0.0), psutil.Process()
    engine._supervisor._restarts = supervisor_pause
    counts = []
    for _ in range(3):
        os.kill(engine.pid, signal.SIGKILL)
        await until(lambda: engine.state == "restarting")
        await until(lambda: engine.state == "ready")
        await works(engine)
        counts.append((process.num_fds(), len(psutil.Process().children())))
    assert counts[1] == counts[2]
