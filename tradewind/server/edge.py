"""The outermost layer: request ids, API keys and limits, dates, one log line per request, the last net for errors.

Plain ASGI: nothing here runs per streamed token, except that headers pass through once.
"""

import logging
import re
import time
import uuid
from email.utils import formatdate
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tradewind.base.errors import TradewindError
from tradewind.base.log import fields
from tradewind.server.allowance import Allowances
from tradewind.server.errors import Disconnected, error_body, error_headers, internal_error
from tradewind.server.keys import ApiKeys, Caller
from tradewind.server.metrics import Metrics
from tradewind.server.playground import ASSETS_PATH
from tradewind.server.spans import Spans
from tradewind.server.trace import SCOPE_KEY, Trace, is_request_id

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/", "/health", "/ping", "/ready", "/load", "/version", "/metrics"})
QUIET_PATHS = OPEN_PATHS | {"/favicon.ico", "/engine/state"}


class Edge:
    """Wraps the application. Every answer gets `X-Request-Id` and `Date`; a request's own id is kept if it is sane."""

    def __init__(
        self, app: ASGIApp, gate: "Gate", metrics: Metrics, paths: frozenset[str], spans: Spans | None = None
    ) -> None:
        """`paths`: the routes there are, as the metrics name them. `spans`: where counted requests leave theirs."""
        self._app = app
        self._gate = gate
        self._metrics = metrics
        self._paths = paths
        self._spans = spans
        self._date = (0, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        named = is_request_id(given)
        trace = Trace(given if named else uuid.uuid4().hex, named, Caller(), time.monotonic(), send)
        scope[SCOPE_KEY] = trace
        answer = _Answer(trace, scope["path"], send, self._date_header())
        try:
            self._gate.enter(trace, scope["method"], scope["path"], headers)
            await self._app(scope, receive, answer)
        except TradewindError as error:
            await answer.fail(error)
        except Exception:
            log.exception("request failed", extra=fields(request_id=trace.request_id, path=scope["path"]))
            await answer.fail(internal_error())
        finally:
            if trace.task is None:
                self._close(scope, trace)
            else:
                trace.task.add_done_callback(lambda _task: self._close_late(scope, trace))
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.responses[path, trace.status or Disconnected.status] += 1
            self._log(scope, trace)

    def _close(self, scope: Scope, trace: Trace) -> None:
        if trace.ticket is not None:
            trace.ticket.close()
            if self._spans is not None:
                self._spans.record(scope, trace)

    def _close_late(self, scope: Scope, trace: Trace) -> None:
        """A request whose work went on after its answer is over: a line of its own says what came of it."""
        self._close(scope, trace)
        ms = round((time.monotonic() - trace.started_s) * 1e3, 1)
        log.info("background", extra=fields(id=trace.request_id, path=scope["path"], ms=ms, **trace.fields()))

    def _log(self, scope: Scope, trace: Trace) -> None:
        # A probe that is told "not ready" has got its answer: what is wrong is logged where it happens.
        is_quiet_path = scope["path"] in QUIET_PATHS or scope["path"].startswith(ASSETS_PATH)
        quiet = is_quiet_path and trace.status in (200, 304, 503)
        level = logging.DEBUG if quiet else logging.ERROR if trace.status >= 500 else logging.INFO
        if not log.isEnabledFor(level):
            return
        values = {
            "id": trace.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": trace.status or Disconnected.status,
            "ms": round((time.monotonic() - trace.started_s) * 1e3, 1),
            **trace.fields(),
        }
        log.log(level, "request", extra=fields(**values))

    def _date_header(self) -> bytes:
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


class Gate:
    """Who may come in, and how often. `counted`: the paths whose POST requests count against a caller's allowance."""

    def __init__(self, keys: ApiKeys, allowances: Allowances, counted: frozenset[str]) -> None:
        self._keys = keys
        self._allowances = allowances
        self._counted = counted

    def enter(self, trace: Trace, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Note in `trace` who calls, and the ticket of what is counted. Raises Unauthorized or RateLimited."""
        if path in OPEN_PATHS or path.startswith(ASSETS_PATH):
            return
        trace.caller = self._keys.identify(_authorization(headers))
        if method == "POST" and path in self._counted:
            trace.ticket = self._allowances.ticket(trace.caller)
            trace.ticket.enter()


class _Answer:
    """`send` with our headers added, and what was sent remembered."""

    def __init__(self, trace: Trace, path: str, send: Send, date: bytes) -> None:
        self._trace = trace
        self._path = path
        self._send = send
        self._date = date
        self._complete = False

    async def __call__(self, message: Message) -> None:
        self._complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        if message["type"] == "http.response.start":
            self._trace.status = message["status"]
            ours = [(b"date", self._date), (b"x-request-id", self._trace.request_id.encode())]
            if self._trace.ignored:
                ours.append((b"x-tradewind-ignored", _header_text(self._trace.ignored)))
            if self._trace.ticket is not None:
                ours += self._trace.ticket.headers()
            message = {**message, "headers": [*message.get("headers", ()), *ours]}
        await self._send(message)

    async def fail(self, error: TradewindError) -> None:
        """Say `error`, if nothing was said yet; in the middle of an answer, let the server cut the connection."""
        self._trace.error = error.code or error.kind
        if self._complete:
            return
        if self._trace.status:
            raise ConnectionAbortedError(f"request {self._trace.request_id} failed after its answer had begun")
        await send_error(self, error, self._path)


async def send_error(send: Send, error: TradewindError, path: str) -> None:
    """A whole answer with `error` in it, in the shape of the route at `path`."""
    body = error_body(error, path)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *error_headers(error)]
    start: dict[str, Any] = {"type": "http.response.start", "status": error.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _authorization(headers: dict[bytes, bytes]) -> bytes | None:
    """The Authorization header, or the key that Anthropic's clients send in a header of its own."""
    key = headers.get(b"x-api-key")
    return headers.get(b"authorization", None if key is None else b"Bearer " + key)


def _header_text(names: list[str]) -> bytes:
    printable = [name for name in names if re.fullmatch(r"[A-Za-z0-9_.\-\[\]]{1,64}", name)]
    return ", ".join(printable[:32]).encode()
