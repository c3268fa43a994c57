"""Log lines: written in their order, at the end too, and nobody waits for a reader that there is not."""

import json
import logging
import subprocess
import sys
import threading
from io import StringIO

import pytest

from tradewind.base import log

LOG = """
import logging, sys
from tradewind.base.log import configure, fields
configure("info", as_json=True)
log = logging.getLogger("tradewind.test")
for number in range({lines}):
    log.info("line", extra=fields(number=number))
print("done", flush=True)
sys.stdin.readline()
log.info("last")
"""


def start(lines: int) -> subprocess.Popen[str]:
    code = LOG.format(lines=lines)
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_all_lines_are_written() -> None:
    process = start(5000)
    _, lines = process.communicate("\n", timeout=60)
    events = [json.loads(line) for line in lines.splitlines()]
    assert [event.get("number") for event in events] == [*range(5000), None]
    assert events[-1]["message"] == "last"


def test_nobody_waits_for_a_reader() -> None:
    """More than a pipe and the lines that may wait can hold: the process goes on, and says what is missing."""
    lines = 50_000
    process = start(lines)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"  # with nothing read of its log
    _, rest = process.communicate("\n", timeout=60)
    events = [json.loads(line) for line in rest.splitlines()]
    numbers = [event["number"] for event in events if "number" in event]
    assert numbers == sorted(set(numbers))  # some may be missing in between, where the log's thread had no turn
    assert numbers[:10_000] == list(range(10_000))
    told = [event["lines"] for event in events if "dropped" in event["message"]]
    assert told
    assert len(events) - len(told) + sum(told) == lines + 1


class SlowStream(StringIO):
    """Takes a line whenever it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.lets = threading.Semaphore(0)

    def write(self, line: str) -> int:
        self.lets.acquire()
        return super().write(line)


def test_what_is_dropped_in_between_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_MOST_WAITING", 4)
    monkeypatch.setattr(log, "_PATIENCE_S", 0.05)
    stream = SlowStream()
    handler = log.UnwaitedHandler(stream)
    handler.setFormatter(log.JsonFormatter())

    def emit(*numbers: int) -> None:
        for number in numbers:
            handler.emit(logging.LogRecord("test", logging.INFO, "", 0, str(number), None, None))

    emit(0)
    while not handler._lines.empty():  # the thread has it, and waits for the stream
        pass
    emit(*range(1, 7))
    handler.flush()  # gives up
    stream.lets.release(3)
    monkeypatch.setattr(log, "_PATIENCE_S", 60.0)
    while handler._lines.qsize() > 1:
        pass
    emit(7)
    stream.lets.release(100)
    handler.flush()
    handler.close()
    *lines, told = (json.loads(line) for line in stream.getvalue().splitlines())
    assert [line["message"] for line in lines] == ["0", "1", "2", "3", "4", "7"]
    assert told["lines"] == 2
