"""The engine process: `main` is its whole life. It is started by `tradewind.engine.child`, and never imports the
program that started it.

Standard input carries one line, the BootOrder, and then stays open: its end means that the parent is gone. Messages
come in on one ZMQ socket and go out on another. One thread turns the loop; a second one sends heartbeats, so that a
step that hangs is seen from outside. With nothing to do, both sleep until something comes in.
"""

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from tradewind.base import log as logs
from tradewind.base.errors import Overloaded, StartupError, TradewindError
from tradewind.base.log import fields
from tradewind.config import Config, from_tree
from tradewind.engine.core import Engine, ProgressCall, build_engine, to_message
from tradewind.engine.sockets import has_input
from tradewind.protocol.messages import (
    EXIT_AFTER_LAST_WORDS,
    Abort,
    Add,
    Crashed,
    Failed,
    FromEngine,
    Heartbeat,
    Progress,
    Ready,
    Refused,
    Shutdown,
    Snapshot,
    TakeSnapshot,
    ToEngine,
)
from tradewind.protocol.request import EngineRequest
from tradewind.protocol.result import EngineStats

log = logging.getLogger(__name__)

HEARTBEAT_S = 0.5
STATS_S = 0.25  # how old the figures in a heartbeat may be while steps are short
_IDLE_CHECK_MS = 1000  # after this long without work, the cache is checked and what boot postponed is done
_LINGER_MS = 1000  # at the end, how long the last words may take to leave

BuildCall = Callable[[Path, Config, ProgressCall], Engine]


class BootOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent asks for: the settings, the model's files, and where to meet (ZMQ addresses)."""

    config: dict[str, Any]
    directory: str
    inbox: str  # the engine binds and receives
    outbox: str  # the client binds, the engine connects and sends


class Outbox:
    """One sending socket and its encoder. Belongs to one thread, or to one lock."""

    def __init__(self, zmq_io: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._socket = zmq_io.socket(zmq.PUSH)
        self._socket.set_hwm(0)  # never block the loop; the client is bounded by what it asked for
        self._socket.linger = _LINGER_MS
        self._socket.connect(address)
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: FromEngine) -> None:
        """Queue it and return."""
        self._socket.send(self._encoder.encode(message))

    def close(self) -> None:
        """Send what is queued, at most for a second, and go."""
        self._socket.close()


class Pulse:
    """Proof of life: a heartbeat every half second between `work` and `rest`, from a thread that no step can hang."""

    def __init__(self, outbox: Outbox, interval_s: float = HEARTBEAT_S) -> None:
        self._outbox = outbox
        self._interval_s = interval_s
        self._busy = threading.Event()
        self._lock = threading.Lock()  # over the outbox, and so that no old figure follows a newer one
        self._stats = EngineStats()
        self.turn_started_s: float | None = None  # written by the loop, read here
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def work(self) -> None:
        """There is work from now on."""
        self._busy.set()

    def report(self, stats: EngineStats) -> None:
        """Newer figures, for the next heartbeat."""
        self._stats = stats

    def rest(self, stats: EngineStats) -> None:
        """No work is left: the last heartbeat is sent now."""
        with self._lock:
            self._busy.clear()
            self._stats = stats
            self._outbox.send(Heartbeat(stats, 0.0))

    def _beat(self) -> None:
        while self._busy.wait():
            with self._lock:
                if self._busy.is_set():
                    started_s = self.turn_started_s
                    age_s = 0.0 if started_s is None else time.monotonic() - started_s
                    self._outbox.send(Heartbeat(self._stats, age_s))
            time.sleep(self._interval_s)


class Service:
    """The loop around an engine: what comes in, one step, what goes out."""

    def __init__(self, engine: Engine, inbox: "zmq.Socket[bytes]", outbox: Outbox, pulse: Pulse) -> None:
        self._engine = engine
        self._inbox = inbox
        self._outbox = outbox
        self._pulse = pulse
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._working = False
        self._stats_s = 0.0

    def run(self) -> None:
        """Serve until a Shutdown comes. Raises what a step raised."""
        while self._receive():
            if self._engine.has_work:
                self._turn()
            else:
                self._rest()

    def _receive(self) -> bool:
        """Take in all that has come. False: the end."""
        while has_input(self._inbox):
            message = self._decoder.decode(self._inbox.recv())
            if isinstance(message, Add):
                prompt = array("i", message.first.prompt_tokens)  # turned into numbers once for all
                self._add(msgspec.structs.replace(message.first, prompt_tokens=prompt).with_others(message.other_seeds))
            elif isinstance(message, Abort):
                self._engine.abort(message.request_ids)
            elif isinstance(message, TakeSnapshot):
                self._outbox.send(Snapshot(self._engine.view()))
            elif isinstance(message, Shutdown):
                return False
        return True

    def _add(self, requests: list[EngineRequest]) -> None:
        for request in requests:
            try:
                self._engine.add(request)
            except TradewindError as error:
                retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else None
                kind = type(error).__name__
                self._outbox.send(Refused(request.request_id, kind, error.message, error.field, retry_after_s))

    def _rest(self) -> None:
        """Nothing to do: say so once, tidy up if the quiet lasts, and sleep until something comes in."""
        if self._working:
            self._working = False
            self._pulse.rest(self._engine.stats())
        if not self._inbox.poll(_IDLE_CHECK_MS):
            while self._engine.tidy() and not has_input(self._inbox):
                pass
            self._inbox.poll()

    def _turn(self) -> None:
        pulse = self._pulse
        pulse.turn_started_s = started_s = time.monotonic()
        if not self._working:
            self._working = True
            pulse.work()
        updates = self._engine.step()
        pulse.turn_started_s = None
        stepped_s = time.monotonic()
        for update in updates:
            self._outbox.send(to_message(update))
        sent_s = time.monotonic()
        self._engine.account_host(sent_s - stepped_s)
        if started_s - self._stats_s > STATS_S:
            self._stats_s = started_s
            pulse.report(self._engine.stats())


def main(build: BuildCall = build_engine) -> None:
    """Read the order from standard input, boot, serve, and end the process. `build` is replaced by tests."""
    # A terminal's Ctrl-C and a service manager's SIGTERM reach the whole group; the parent drains and then tells us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _die_with_parent()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = msgspec.json.decode(line, type=BootOrder)
    threading.Thread(target=_watch_parent, name="parent", daemon=True).start()
    config = from_tree(order.config)
    logs.configure(config.server.log_level, config.server.log_json)
    code = _serve(order, config, build)
    # The interpreter's own way out would wait for torch and for threads that hang.
    logging.shutdown()
    os._exit(code)


def _serve(order: BootOrder, config: Config, build: BuildCall) -> int:
    zmq_io: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox = zmq_io.socket(zmq.PULL)
    inbox.set_hwm(0)
    inbox.bind(order.inbox)
    outbox, pulse_outbox = Outbox(zmq_io, order.outbox), Outbox(zmq_io, order.outbox)
    try:
        code = _live(order, config, build, inbox, outbox, pulse_outbox)
    finally:
        inbox.close(0)
        outbox.close()
        pulse_outbox.close()
        zmq_io.term()
    return code


def _live(
    order: BootOrder,
    config: Config,
    build: BuildCall,
    inbox: "zmq.Socket[bytes]",
    outbox: Outbox,
    pulse_outbox: Outbox,
) -> int:
    """Boot and serve; whatever ends it is said to the client. Returns the exit code."""
    started_s = time.monotonic()
    try:
        engine = build(Path(order.directory), config, lambda stage, share: outbox.send(Progress(stage, share)))
        gc.collect()
        gc.freeze()  # what booted stays: the collector need not walk it again while serving
        outbox.send(describe(engine, time.monotonic() - started_s))
        Service(engine, inbox, outbox, Pulse(pulse_outbox)).run()
        engine.close()
    except StartupError as error:
        outbox.send(Failed(type(error).__name__, error.message, error.field))
        return EXIT_AFTER_LAST_WORDS
    except Exception as error:  # the border of the process: said to the client and to the log
        log.critical("the engine died of %r", error, exc_info=True, extra=fields(pid=os.getpid()))
        outbox.send(Crashed(f"{type(error).__name__}: {error}"))
        return EXIT_AFTER_LAST_WORDS
    return 0


def describe(engine: Engine, boot_s: float) -> Ready:
    """What the engine says of itself."""
    info = engine.runner.info
    return Ready(
        max_model_len=info.max_model_len,
        vocab_size=info.vocab_size,
        max_running=engine.max_running,
        num_blocks=info.num_blocks,
        block_tokens=info.block_tokens,
        step_tokens=info.step_tokens,
        device=info.device,
        dtype=info.dtype,
        weights_bytes=info.weights_bytes,
        kv_bytes=info.kv_bytes,
        boot_s=boot_s,
        implementations=info.implementations,
    )


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends (Linux; prctl(2) PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _watch_parent() -> None:
    """End the process when standard input ends: the parent closed it, or is gone."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)
