"""One life of the engine process, as its parent sees it: the process, and the two sockets to it."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import zmq

import tradewind
from tradewind.config import Config, to_tree
from tradewind.engine.sockets import has_input
from tradewind.protocol.messages import EXIT_AFTER_LAST_WORDS, FromEngine, ToEngine

# -P and an own sys.path entry: the child finds the same package wherever it is started, and nothing in the working
# directory can stand in for a module of ours.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from tradewind.engine.process import main; main()"


def default_command() -> list[str]:
    """The engine process, by this interpreter, from this package."""
    return [sys.executable, "-P", "-c", _PROGRAM, str(Path(tradewind.__file__).parents[1])]


class Child:
    """A started engine process. Everything here belongs to the event loop's thread."""

    def __init__(self, folder: Path, number: int, command: Sequence[str]) -> None:
        """Start the process; it waits for `order`. `folder` is private, `number` unique in it."""
        self._loop = asyncio.get_running_loop()
        self._zmq_io: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._inbox_address = f"ipc://{folder}/{number}.to"
        self._outbox_address = f"ipc://{folder}/{number}.from"
        self._receiver = self._zmq_io.socket(zmq.PULL)
        self._receiver.set_hwm(0)
        self._receiver.bind(self._outbox_address)
        self._sender = self._zmq_io.socket(zmq.PUSH)
        self._sender.set_hwm(0)
        self._sender.connect(self._inbox_address)  # messages wait here until the engine has bound it
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._exited = asyncio.Event()
        self._closed = False
        # Its standard output goes to our standard error: whatever a library prints, it is no answer of ours. A session
        # of its own keeps a terminal's Ctrl-C away from it.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def order(self, config: Config, directory: Path) -> None:
        """Tell the process what to boot."""
        order = {
            "config": to_tree(config),
            "directory": str(directory),
            "inbox": self._inbox_address,
            "outbox": self._outbox_address,
        }
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead already, which on_exit tells
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def watch(self, on_readable: Callable[[], object], on_exit: Callable[[], None]) -> None:
        """From now on, call `on_readable` when messages have come, and `on_exit` once the process has ended."""
        self._loop.add_reader(self._receiver.fileno(), on_readable)
        threading.Thread(target=self._wait, args=(on_exit,), name="engine-exit", daemon=True).start()
        # The socket's descriptor tells of changes only: of what came before, we must tell.
        self._loop.call_soon(on_readable)

    def _wait(self, on_exit: Callable[[], None]) -> None:
        """Sleep until the process has ended. A thread, because that works on every loop, in every thread, at once."""
        self._process.wait()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_exit, on_exit)

    def _on_exit(self, on_exit: Callable[[], None]) -> None:
        self._exited.set()
        on_exit()

    def send(self, message: ToEngine) -> None:
        """Queue a message; never blocks."""
        if not self._closed:
            self._sender.send(self._encoder.encode(message))

    def receive(self, most: int) -> Iterator[FromEngine]:
        """Up to `most` messages that have come. After fewer, `on_readable` is called for the next one."""
        for _ in range(most):
            if self._closed or not has_input(self._receiver):
                return
            yield self._decoder.decode(self._receiver.recv())

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    async def end(self, timeout_s: float) -> None:
        """Wait for the process to end by itself, and kill it if it has not after `timeout_s`."""
        try:
            await asyncio.wait_for(self._exited.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            await self._exited.wait()

    @property
    def spoke_before_it_ended(self) -> bool:
        """Whether it ended in the way that it announces: Failed or Crashed was sent, and is here or will be."""
        return self._process.returncode == EXIT_AFTER_LAST_WORDS

    def exit_text(self) -> str:
        """`"was killed by SIGKILL"` or `"ended with code 1"`."""
        code = self._process.returncode
        if code is not None and code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def close(self) -> None:
        """Give the sockets and the pipe back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._receiver.fileno())
        self._receiver.close(0)
        self._sender.close(0)
        self._zmq_io.term()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
