"""What every route needs: the engine, the settings, the served names, the metrics."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tradewind.base.errors import Draining, EngineUnavailable, RequestError
from tradewind.config import ServerConfig
from tradewind.server.allowance import Allowances
from tradewind.server.errors import ModelUnknown
from tradewind.server.metrics import Metrics
from tradewind.server.playground import Playground
from tradewind.server.responses.store import ResponseStore
from tradewind.server.timelines import Timelines

if TYPE_CHECKING:
    from starlette.requests import Request

    from tradewind.engine.client import AsyncEngine

TIMEOUT_HEADER = "x-request-timeout-s"
LONGEST_TIMEOUT_S = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may not outlast, or outgrow."""

    write_timeout_s: float = 30.0  # a client that takes nothing of its answer for so long is dropped
    stored_responses: int = 10_000
    stored_bytes: int = 256 * 2**20
    background_responses: int = 128  # that are being made at once
    event_log_bytes: int = 2 * 2**20  # of each of them


@dataclass(frozen=True, slots=True)
class Service:
    """One engine behind one server. `names`: what clients may call the model; the first one is its name."""

    engine: "AsyncEngine"
    config: ServerConfig
    names: tuple[str, ...]
    metrics: Metrics
    limits: Limits
    created_s: int  # Unix time, when this server began
    responses: ResponseStore
    timelines: Timelines = field(default_factory=Timelines)
    allowances: Allowances = field(default_factory=Allowances)
    playground: Playground = field(default_factory=Playground)

    @property
    def context_tokens(self) -> int:
        """The longest that a prompt and its answer can be together."""
        ready = self.engine.ready
        return min(ready.max_model_len, ready.num_blocks * ready.block_tokens + 1)

    def check_model(self, name: str | None) -> str:
        """The name to answer with; None means whatever is served. Raises ModelUnknown, naming what there is."""
        if name is None or name == "":
            return self.names[0]
        if name not in self.names:
            served = ", ".join(repr(known) for known in self.names)
            raise ModelUnknown(f"the model {name[:200]!r} is not served here; served: {served}", field="model")
        return name

    def check_ready(self) -> None:
        """Raise Draining or EngineUnavailable unless the engine takes requests; before work is put into a prompt."""
        state = self.engine.state
        if state == "draining":
            raise Draining("the server is shutting down and takes no new requests", retry_after_s=5)
        if state != "ready":
            reason = f": {self.engine.failure}" if self.engine.failure else ""
            raise EngineUnavailable(f"the engine is {state}{reason}", retry_after_s=2)

    def timeout_s(self, request: "Request", asked: float | None) -> float | None:
        """The request's deadline, in seconds from now: its own field, else its header, else the server's setting."""
        header = request.headers.get(TIMEOUT_HEADER)
        source = "timeout"
        if asked is None and header is not None:
            source = TIMEOUT_HEADER
            try:
                asked = float(header)
            except ValueError:
                raise RequestError(f"{source} must be a number of seconds, not {header[:40]!r}", field=source) from None
        if asked is None:
            return self.config.default_timeout_s
        if not 0 < asked <= LONGEST_TIMEOUT_S:  # also refuses NaN
            message = f"{source} must be above 0 and at most {LONGEST_TIMEOUT_S:.0f} seconds, not {asked}"
            raise RequestError(message, field=source)
        return asked
