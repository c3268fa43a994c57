"""Keeps an engine process alive: boots it, hears it, sees it die or hang, and begins its next life.

A life is a `Child`. When one ends before it should, `on_death` is called at once, so that open requests fail without
delay, and a new life begins after a pause that grows with each restart. After too many within ten minutes, or if the
engine says that it cannot start, it is given up.
"""

import asyncio
import logging
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tradewind.base import errors
from tradewind.base.errors import EngineFailed, NotEnoughMemory, StartupError
from tradewind.base.log import fields
from tradewind.config import Config
from tradewind.engine.child import Child, default_command
from tradewind.protocol.messages import (
    Crashed,
    Failed,
    FromEngine,
    Heartbeat,
    Progress,
    Ready,
    Refused,
    Shutdown,
    Snapshot,
    Step,
    TakeSnapshot,
    ToEngine,
)
from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import EngineView

log = logging.getLogger(__name__)

LifeState = Literal["starting", "ready", "restarting", "failed"]

_MESSAGES_A_TURN = 16  # then the event loop gets its turn, whatever still waits
_SILENCE_S = 2.0  # heartbeats come every half second: this much beyond the step's timeout without any is a hang
_SHUTDOWN_S = 5.0  # how long the process may take to end by itself
_LAST_WORDS_S = 2.0  # how long they may take to arrive after the process has ended
_LAST_WORDS_LOOK_S = 0.01
_WINDOW_S = 600.0
_LONGEST_PAUSE_S = 30.0
_LONGEST_FOLDER = 80  # the address of a Unix socket has room for 107 bytes


class Restarts:
    """How often, and how fast, a dead engine may be started again."""

    def __init__(self, most: int, first_pause_s: float = 0.5) -> None:
        """At most `most` times within ten minutes."""
        self.most = most
        self._first_pause_s = first_pause_s
        self._times_s: deque[float] = deque()

    def next_pause_s(self, now_s: float) -> float | None:
        """The pause before the next restart, which counts from now; None: it is given up.

        The first restart is at once; then the pause doubles each time, up to half a minute.
        """
        while self._times_s and self._times_s[0] < now_s - _WINDOW_S:
            self._times_s.popleft()
        count = len(self._times_s)
        if count >= self.most:
            return None
        self._times_s.append(now_s)
        return 0.0 if count == 0 else min(self._first_pause_s * 2.0 ** (count - 1), _LONGEST_PAUSE_S)


class Supervisor:
    """The engine process through all its lives. Everything here belongs to the thread of one running event loop.

    `stats` is the newest snapshot of the present life. `failure` says, for people, why the state is 'restarting' or
    'failed', else it is None.
    """

    def __init__(
        self, config: Config, on_progress: Callable[[str, float], None], command: Sequence[str] | None
    ) -> None:
        self.state: LifeState = "starting"
        self.failure: str | None = None
        self.ready: Ready | None = None
        self.stats = EngineStats()
        self._config = config
        self._command = command or default_command()
        self._on_progress = on_progress
        self._on_step: Callable[[Step], None] = _ignore
        self._on_refused: Callable[[Refused], None] = _ignore
        self._on_death: Callable[[str], None] = _ignore
        self._has_work: Callable[[], bool] = bool
        self._loop = asyncio.get_running_loop()
        self._folder = Path(tempfile.mkdtemp(prefix="tradewind-", dir=_socket_folder()))
        self._directory = Path()
        self._child: Child | None = None
        self._booted: asyncio.Future[Ready] | None = None
        self._reason: str | None = None  # why the present life ends, if we or it know better than its exit code
        self._lives = 0
        self._restarts = Restarts(config.engine.max_restarts)
        self._restarting: asyncio.Task[None] | None = None
        self._heard_s = 0.0
        self._watchdog: asyncio.TimerHandle | None = None
        self._viewing: asyncio.Future[EngineView] | None = None
        self._closed = False

    def connect(
        self,
        on_step: Callable[[Step], None],
        on_refused: Callable[[Refused], None],
        on_death: Callable[[str], None],
        has_work: Callable[[], bool],
    ) -> None:
        """Whom to tell of steps, refusals, and an engine that died (with the reason); whether requests are open."""
        self._on_step = on_step
        self._on_refused = on_refused
        self._on_death = on_death
        self._has_work = has_work

    @property
    def restarts(self) -> int:
        """Lives after the first."""
        return max(0, self._lives - 1)

    @property
    def pid(self) -> int | None:
        """The engine process, while there is one."""
        return None if self._child is None else self._child.pid

    def begin(self, directory: Path) -> "asyncio.Future[Ready]":
        """Begin the first life, with the model's files in `directory`.

        The future gives its Ready, StartupError if it says that it cannot start, or EngineFailed if it dies.
        """
        self._directory = directory
        return self._launch()

    def send(self, message: ToEngine) -> None:
        """Queue a message to the present life; without one it is dropped, as its requests have failed anyway."""
        if self._child is not None:
            self._child.send(message)

    async def view(self) -> EngineView:
        """The engine from inside: one snapshot at a time is asked for, and all who wait for it share it."""
        if self._viewing is None:
            self._viewing = self._loop.create_future()
            self.send(TakeSnapshot())
        return await asyncio.shield(self._viewing)

    def watch(self) -> None:
        """Work was given to the engine: look after it until none is left."""
        if self._watchdog is None:
            self._heard_s = time.monotonic()
            self._arm()

    async def close(self) -> None:
        """End the process and remove its folder. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._end_viewing("the engine was closed")
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            if self._booted is not None and self._booted.done():
                child.send(Shutdown())
            else:
                child.kill()  # it does not listen before it is ready
            await child.end(_SHUTDOWN_S)
            child.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- lives -------------------------------------------------------------------------------------------------------

    def _launch(self) -> "asyncio.Future[Ready]":
        self._lives += 1
        self._reason = None
        self.stats = EngineStats()
        child = self._child = Child(self._folder, self._lives, self._command)
        booted = self._booted = self._loop.create_future()
        child.order(self._config, self._directory)
        child.watch(lambda: self._receive(child), lambda: self._on_exit(child))
        return booted

    def _on_exit(self, child: Child, patience_s: float = _LAST_WORDS_S) -> None:
        """A process has ended. What it still said counts; what it did not finish has failed."""
        if child is not self._child:
            return
        while self._receive(child):
            pass
        if child.spoke_before_it_ended and not self._knows_why and patience_s > 0:
            # Its exit can be known before the thread that reads its socket has run.
            self._loop.call_later(_LAST_WORDS_LOOK_S, self._on_exit, child, patience_s - _LAST_WORDS_LOOK_S)
            return
        self._child = None
        child.close()
        reason = self._reason or f"the engine process {child.exit_text()}"
        self.stats = EngineStats()
        self._end_viewing(reason)
        booted = self._booted
        assert booted is not None
        if not booted.done():
            booted.set_exception(EngineFailed(reason))  # whoever boots it decides what follows
        elif self.state == "ready":
            self._died(reason, child.pid)

    @property
    def _knows_why(self) -> bool:
        """Whether the present life has said, or was told, why it ends."""
        booted = self._booted
        failed = booted is not None and booted.done() and (booted.cancelled() or booted.exception() is not None)
        return failed or self._reason is not None

    def _died(self, reason: str, pid: int) -> None:
        log.error("engine died: %s", reason, extra=fields(pid=pid))
        self.state, self.failure = "restarting", reason
        self._on_death(reason)
        if not self._closed:
            self._restarting = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        """Begin new lives until one is ready, or there were too many."""
        while (pause_s := self._restarts.next_pause_s(time.monotonic())) is not None:
            await asyncio.sleep(pause_s)
            try:
                ready = await self._launch()
            except (EngineFailed, NotEnoughMemory) as error:
                self.failure = error.message  # it had enough memory before: others may give theirs back
            except StartupError as error:
                self._give_up(f"it cannot start again: {error.message}")
                return
            else:
                log.info("engine restarted", extra=fields(pid=self.pid, boot_s=round(ready.boot_s, 3)))
                return
        self._give_up(
            f"it was restarted {self._restarts.most} times within ten minutes; the last failure: {self.failure}"
        )

    def _give_up(self, why: str) -> None:
        self.state, self.failure = "failed", why
        log.critical("engine given up: %s", why)

    # --- what it says ------------------------------------------------------------------------------------------------

    def _receive(self, child: Child) -> bool:
        """Take what has come. Returns whether there may be more, and comes back for it."""
        count = 0
        for message in child.receive(_MESSAGES_A_TURN):
            count += 1
            if child is self._child:
                self._on_message(message)
        if count:
            self._heard_s = time.monotonic()
        if count == _MESSAGES_A_TURN:
            self._loop.call_soon(self._receive, child)
            return True
        return False

    def _on_message(self, message: FromEngine) -> None:
        if isinstance(message, Step):
            self._on_step(message)
        elif isinstance(message, Heartbeat):
            self.stats = message.stats
            if message.step_age_s > self._config.engine.step_timeout_s:
                self._hangs(f"a step has not ended for {message.step_age_s:.1f} s")
        elif isinstance(message, Snapshot):
            self._on_snapshot(message.view)
        elif isinstance(message, Refused):
            self._on_refused(message)
        elif isinstance(message, Progress):
            self._on_progress(message.stage, message.share)
        elif isinstance(message, Crashed):
            when = "in a step" if self.state == "ready" else "while it started"
            self._reason = f"the engine failed {when}: {message.message}"
        elif self._booted is not None and not self._booted.done():
            if isinstance(message, Ready):
                self.ready, self.state, self.failure = message, "ready", None
                self._booted.set_result(message)
            elif isinstance(message, Failed):
                self._booted.set_exception(_as_startup_error(message))

    def _on_snapshot(self, view: EngineView) -> None:
        self.stats = view.stats
        viewing, self._viewing = self._viewing, None
        if viewing is not None:
            viewing.set_result(view)

    def _end_viewing(self, reason: str) -> None:
        """Nothing comes any more for those who wait for a snapshot."""
        viewing, self._viewing = self._viewing, None
        if viewing is not None:
            viewing.set_exception(EngineFailed(reason))
            viewing.exception()  # seen, even if those who waited are gone

    # --- hangs -------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        interval_s = min(1.0, self._config.engine.step_timeout_s / 4)
        self._watchdog = self._loop.call_later(interval_s, self._look)

    def _look(self) -> None:
        """With requests open, a heartbeat comes every half second, unless the whole process stands still."""
        self._watchdog = None
        child = self._child
        if child is None or not self._has_work():
            return
        self._receive(child)  # this loop may have been the one that stood still
        silence_s = time.monotonic() - self._heard_s
        if silence_s > self._config.engine.step_timeout_s + _SILENCE_S:
            self._hangs(f"nothing was heard from it for {silence_s:.1f} s")
        else:
            self._arm()

    def _hangs(self, symptom: str) -> None:
        """Kill a life that hangs; its end is noticed as any other."""
        if self._child is not None and self._reason is None:
            self._reason = f"the engine hung ({symptom}) and was killed"
            self._child.kill()


def _as_startup_error(message: Failed) -> StartupError:
    """The error that the engine raised, as one of the same kind."""
    kind = getattr(errors, message.error, StartupError)
    assert isinstance(kind, type)
    assert issubclass(kind, StartupError), message
    return kind(message.message, field=message.field)


def _socket_folder() -> str | None:
    """The folder for temporary files, unless its path is too long for a socket in it."""
    return None if len(tempfile.gettempdir()) < _LONGEST_FOLDER else "/tmp"


def _ignore(_what: object) -> None:
    """Nobody listens yet."""
