"""Structured logs: one line an event, as text for people or as JSON for machines.

Use `log = logging.getLogger(__name__)` and `log.info("request finished", extra=fields(request_id=..., tokens=...))`.
"""

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from typing import Any, TextIO

_MOST_WAITING = 10_000  # lines
_PATIENCE_S = 1.0


def fields(**values: Any) -> dict[str, Any]:
    """Key-value pairs of one log line, for `extra=`."""
    return {"fields": values}


class TextFormatter(logging.Formatter):
    """`12:00:01 INFO  engine ready  blocks=1024`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-5s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        pairs = " ".join(f"{key}={value}" for key, value in getattr(record, "fields", {}).items())
        line = super().format(record)
        return f"{line}  {pairs}" if pairs else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (Unix seconds), level, logger, message, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class UnwaitedHandler(logging.Handler):
    """Writes lines from a thread of its own, so that nobody who logs waits for whoever reads, or does not.

    Once too many lines wait the next ones are dropped, and how many were is told when none waits any more. Only `flush`
    waits until all is written: `logging.shutdown` calls it at the end of a process.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._dropped += 1
        except Exception:  # noqa: BLE001 - what cannot be put into words must not end what was logged about
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines are written, or none has been for a second: then nobody seems to read them."""
        left, since_s = self._lines.unfinished_tasks, time.monotonic()
        while left and time.monotonic() < since_s + _PATIENCE_S:
            time.sleep(0.005)
            if self._lines.unfinished_tasks != left:
                left, since_s = self._lines.unfinished_tasks, time.monotonic()

    def close(self) -> None:
        """Let the thread end once all is written."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        super().close()

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            self._write(line)
            if self._dropped and self._lines.empty():
                self._write(self._of_dropped())
            self._lines.task_done()
        self._lines.task_done()

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody can read it any more
            self._stream.write(line + "\n")
            self._stream.flush()

    def _of_dropped(self) -> str:
        with self._counting:
            lines, self._dropped = self._dropped, 0
        message = "log lines were dropped, because nobody read those before"
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": message}
        return self.format(logging.makeLogRecord(about | fields(lines=lines)))


def configure(level: str = "info", as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send Tradewind's log lines to `stream` (stderr by default). Called by programs, never by the library."""
    handler = UnwaitedHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger("tradewind")
    for former in root.handlers:
        former.close()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
