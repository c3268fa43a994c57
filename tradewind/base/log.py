"""Structured logs: one line an event, as text for people or as JSON for machines.

Use `log = logging.getLogger(__name__)` and `log.info("request finished", extra=fields(request_id=..., tokens=...))`.
"""

import json
import logging
import sys
from typing import Any, TextIO


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


def configure(level: str = "info", as_json: bool = False, stream: TextIO | None = None) -> None:
    """Send Tradewind's log lines to `stream` (stderr by default). Called by programs, never by the library."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger("tradewind")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
