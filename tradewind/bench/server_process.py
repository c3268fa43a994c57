"""A `tradewind serve` of one's own, for as long as a measurement lasts."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO


@contextmanager
def start_server(model: str, options: Sequence[str] = ()) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """The process and the port it has chosen, which it listens on; it may still be loading. Ends it on the way out.

    Raises RuntimeError with the server's output if it does not start.
    """
    command = [sys.executable, "-m", "tradewind", "serve", model, "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        port = _read_port(process.stdout)
        # Somebody must read what it says, or it waits for that once the pipe is full.
        reader = threading.Thread(target=_read_on, args=(process.stdout,), daemon=True)
        reader.start()
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _read_on(output: IO[str]) -> None:
    for _line in output:
        pass


def _read_port(output: IO[str]) -> int:
    """The port from the first line that names an address."""
    seen = []
    for line in output:
        seen.append(line)
        if match := re.search(r"http://[\w.\-]+:(\d+)", line):
            return int(match.group(1))
    raise RuntimeError("the server did not start:\n" + "".join(seen))
