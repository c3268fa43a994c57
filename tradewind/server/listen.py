"""HTTP through uvicorn: bounded headers, errors in one shape, and no wake-ups when there is nothing to do."""

import asyncio
import contextlib
import fcntl
import sys
import termios
from collections.abc import Iterator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tradewind.base.errors import RequestError
from tradewind.server.errors import error_body
from tradewind.server.sockets import BACKLOG
from tradewind.server.sse import DROP_EXTENSION, UNSENT_EXTENSION, WRITE_EXTENSION

KEEP_ALIVE_S = 75
MAX_HEADER_BYTES = 64 * 1024
GRACE_S = 5  # after the drain, for answers that are still being written


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with bounded headers, JSON for bad requests, and a way to cut a reader that stopped."""

    _header_bytes = 0

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._header_bytes = 0
        scope = cast("dict[str, Any]", self.scope)
        scope["extensions"] = {
            DROP_EXTENSION: self.transport.abort,
            WRITE_EXTENSION: self._write_chunk,
            UNSENT_EXTENSION: self._unsent_bytes,
        }

    def on_url(self, url: bytes) -> None:
        """A piece of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, more_bytes: int) -> None:
        self._header_bytes += more_bytes
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("headers too large")  # the parser makes it a bad request

    def _write_chunk(self, body: bytes) -> bool:
        """Write a piece of an answer that has begun, now. False, and nothing written, if it cannot be: use `send`."""
        cycle = self.cycle
        if self.flow.write_paused or self.transport.is_closing() or cycle.disconnected or not cycle.chunked_encoding:
            return False
        if body:
            self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    def _unsent_bytes(self) -> int:
        """What waits here and, where the kernel says it, in the kernel: the latter alone can hold megabytes."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return 0  # closed meanwhile
        in_kernel = bytes(4)
        with contextlib.suppress(OSError):
            in_kernel = fcntl.ioctl(descriptor, termios.TIOCOUTQ, in_kernel)
        return self.transport.get_write_buffer_size() + int.from_bytes(in_kernel, sys.byteorder)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP gets an error in the usual shape, and the connection ends."""
        body = error_body(RequestError(msg))
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: "
        self.transport.write(head + b"%d\r\n\r\n" % len(body) + body)
        self.transport.close()


class HttpServer(uvicorn.Server):
    """uvicorn without its ten wake-ups a second and its own signals."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._stopping = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait for `stop`; connections need no attendance."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Let `serve` close the connections and return."""
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the program."""
        yield
