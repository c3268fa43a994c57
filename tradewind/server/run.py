"""`serve`: the engine and the HTTP server together, from the first socket to the last stream.

The order matters for the time to the first answer: the port is taken first (so that a port in use is known at once),
then the engine process starts, and the HTTP side is imported while the engine loads.
"""

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from tradewind.base.errors import StartupError
from tradewind.base.log import configure
from tradewind.config import Config, ServerConfig
from tradewind.engine.client import AsyncEngine
from tradewind.server.greet import LoadingLine, greeting, say, served_names, url_of
from tradewind.server.key_file import open_keys
from tradewind.server.spans import Spans, check_endpoint, open_spans

if TYPE_CHECKING:
    from tradewind.server.listen import HttpServer

log = logging.getLogger(__name__)

STARTUP_FAILED = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT, then let running streams finish. Returns the exit status.

    0 after a drain; 1 with the reason on standard error when it cannot start. A second signal ends the process at once.
    """
    configure(config.server.log_level, config.server.log_json)
    try:
        open_keys(config.server)  # so that a fault in them is known at once; the application opens them itself
        check_endpoint(config.server.otlp_traces_endpoint)
        listener = _bind(config.server)
    except StartupError as error:
        return _refuse(error)
    names = served_names(config.server, config.model.model)
    config = dataclasses.replace(config, server=dataclasses.replace(config.server, served_model_name=names))
    with listener, asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_Serving(config, listener).run())


def _bind(config: ServerConfig) -> socket.socket:
    from tradewind.server.sockets import bind

    return bind(config.host, config.port)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _refuse(error: StartupError) -> int:
    sys.stderr.write(f"tradewind: {error.message}\n")
    return STARTUP_FAILED


class _Serving:
    """One life of the server."""

    def __init__(self, config: Config, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._loading = LoadingLine(sys.stderr)
        self._started_s = time.monotonic()
        self._signalled = asyncio.Event()
        self._engine: AsyncEngine | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        engine = self._engine = AsyncEngine(self._config, self._loading.show)
        booting = asyncio.create_task(engine.boot())
        spans: Spans | None = None
        try:
            server, spans = await asyncio.to_thread(_build, engine, self._config.server)
            serving = asyncio.create_task(server.serve([self._listener]))
            status = await self._until_stopped(engine, booting)
            server.stop()
            await serving
            return status
        finally:
            booting.cancel()
            await engine.close()
            if spans is not None:
                await asyncio.to_thread(spans.close)

    async def _until_stopped(self, engine: AsyncEngine, booting: "asyncio.Task[None]") -> int:
        stopping = asyncio.create_task(self._signalled.wait())
        await asyncio.wait((booting, stopping), return_when=asyncio.FIRST_COMPLETED)
        self._loading.clear()
        if booting.done():
            try:
                booting.result()
            except StartupError as error:
                stopping.cancel()
                return _refuse(error)
            gc.collect()
            gc.freeze()  # what booted stays: the collector need not walk it again while serving
            self._greet(engine)
            await stopping
            log.info("draining: running streams finish, new requests are refused")
            finished = await engine.drain(self._config.server.drain_timeout_s)
            log.info("drained" if finished else "drain timed out: what still ran was aborted")
        return 0

    def _greet(self, engine: AsyncEngine) -> None:
        config = self._config.server
        port = self._listener.getsockname()[1]
        say(greeting(engine, config, url_of(config.host, port), time.monotonic() - self._started_s))

    def _on_signal(self, number: int) -> None:
        if self._signalled.is_set():
            self._end_at_once(number)
        self._signalled.set()

    def _end_at_once(self, number: int) -> None:
        """A second signal: no more waiting, for anything."""
        pid = self._engine.pid if self._engine is not None else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        os._exit(128 + number)


def _build(engine: AsyncEngine, config: ServerConfig) -> "tuple[HttpServer, Spans | None]":
    """Import the HTTP side, while the engine loads in its own process, and put it together."""
    from tradewind.server.app import create_app
    from tradewind.server.listen import HttpServer

    spans = open_spans(config.otlp_traces_endpoint) if config.otlp_traces_endpoint else None
    return HttpServer(create_app(engine, config, spans=spans)), spans
