"""OpenTelemetry: one span for each request, made when its answer is out, from what is known of it by then.

Nothing here runs while a request does. A span goes into a queue with a bound; a thread of the SDK sends the queue to
the collector in batches, and what does not fit is dropped. So a collector that is slow or gone costs spans, never
answers.

Names are those of OpenTelemetry's semantic conventions for GenAI and HTTP, and vLLM's for what these do not have
(`gen_ai.latency.*`). Texts of prompts and answers are never in a span.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tradewind import __version__
from tradewind.base.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from starlette.types import Scope

    from tradewind.engine.client import AsyncEngine, RequestTimings
    from tradewind.protocol.sampling import SamplingParams
    from tradewind.server.trace import Trace

DEFAULT_PATH = "/v1/traces"
SEND_EVERY_MS = 1000
EXPORT_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0  # at the end of the server, for spans that are still in the queue

_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/messages": "chat", "/v1/responses": "chat"}
_OPERATIONS |= {"/v1/completions": "text_completion"}
_NS = 1_000_000_000

Attributes = dict[str, Any]


def check_endpoint(endpoint: str | None) -> None:
    """Raise ConfigError unless spans can be sent to `endpoint`, as far as can be told without trying. None: nowhere."""
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"--otlp-traces-endpoint must be the http(s) URL of an OTLP collector, not {endpoint!r}"
        raise ConfigError(message, field="otlp_traces_endpoint")
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        message = "--otlp-traces-endpoint needs OpenTelemetry: pip install 'tradewind[otel]'"
        raise ConfigError(message, field="otlp_traces_endpoint")


def open_spans(endpoint: str) -> "Spans":
    """Spans to a collector that speaks OTLP over HTTP; without a path in its URL, `/v1/traces` is meant."""
    check_endpoint(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    log = logging.getLogger("opentelemetry")
    log.handlers[:] = logging.getLogger("tradewind").handlers
    log.propagate = False
    url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + DEFAULT_PATH
    return Spans(OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT_S))


class Spans:
    """Where requests leave their spans. `engine` must be set before the first request."""

    engine: "AsyncEngine"

    def __init__(self, exporter: "SpanExporter") -> None:
        """Starts the thread that sends. The SDK's own environment variables (`OTEL_*`) hold for the rest."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "tradewind"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SEND_EVERY_MS))
        self._tracer = self._provider.get_tracer("tradewind", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, scope: "Scope", trace: "Trace") -> None:
        """The span of a request that has ended, as a child of the client's `traceparent` if it sent one."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        start_ns = time.time_ns() - round((time.monotonic() - trace.started_s) * _NS)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"]
        operation = _OPERATIONS.get(path)
        name = f"{operation} {trace.model or ''}".strip() if operation else f"{scope['method']} {path}"
        span = self._tracer.start_span(
            name, context=self._propagator.extract(headers), kind=SpanKind.SERVER, start_time=start_ns
        )
        if span.is_recording():
            known = [self.engine.timings(number) for number in trace.sequences]
            timings = [each for each in known if each is not None]
            span.set_attributes(_http(scope, trace) | _request(operation, trace) | _answer(trace, timings))
            for moment, at_s in _moments(trace, timings).items():
                span.add_event(moment, timestamp=start_ns + round(at_s * _NS))
            if trace.error is not None and not 400 <= trace.status < 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Send what is in the queue, for CLOSE_TIMEOUT_S at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)


def _http(scope: "Scope", trace: "Trace") -> Attributes:
    attributes: Attributes = {
        "http.request.method": scope["method"],
        "http.route": scope["path"],
        "http.response.status_code": trace.status,
        "gen_ai.request.id": trace.request_id,
    }
    if trace.error is not None:
        attributes["error.type"] = trace.error
    if trace.caller.name:
        attributes["tradewind.key"] = trace.caller.name
    return attributes


def _request(operation: str | None, trace: "Trace") -> Attributes:
    if operation is None:
        return {}
    values: Attributes = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "tradewind"}
    if trace.model is not None:
        values |= {"gen_ai.request.model": trace.model, "gen_ai.response.model": trace.model}
    return values if trace.params is None else values | _sampling(trace.params)


def _sampling(params: "SamplingParams") -> Attributes:
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "frequency_penalty", "presence_penalty")
    values = {f"gen_ai.request.{name}": getattr(params, name) for name in names}
    values["gen_ai.request.choice.count"] = params.n
    return {name: value for name, value in values.items() if value is not None}


def _answer(trace: "Trace", timings: "list[RequestTimings]") -> Attributes:
    values: Mapping[str, Any] = {
        "gen_ai.usage.input_tokens": trace.prompt_tokens,
        "gen_ai.usage.output_tokens": trace.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": trace.cached_tokens,
        "gen_ai.response.finish_reasons": [str(each.finish_reason) for each in timings] or None,
    }
    known = {name: value for name, value in values.items() if value is not None}
    return known | _durations(trace, timings) if timings else known


def _durations(trace: "Trace", timings: "list[RequestTimings]") -> Attributes:
    """In seconds. Of a request with several sequences: from the first of them to the last."""
    moments = _moments(trace, timings)
    ended_s = max(each.submitted_s + each.e2e_s for each in timings) - trace.started_s
    values: Attributes = {"gen_ai.server.request.duration": ended_s}
    if "admitted" in moments:
        submitted_s = min(each.submitted_s for each in timings) - trace.started_s
        values["gen_ai.latency.time_in_queue"] = moments["admitted"] - submitted_s
    if "first_token" in moments:
        first_s = moments["first_token"]
        values["gen_ai.server.time_to_first_token"] = first_s
        values["gen_ai.latency.time_in_model_prefill"] = first_s - moments["admitted"]
        values["gen_ai.latency.time_in_model_decode"] = ended_s - first_s
        longest = max(each.completion_tokens for each in timings)
        if longest > 1:
            values["gen_ai.server.time_per_output_token"] = (ended_s - first_s) / (longest - 1)
    return values


def _moments(trace: "Trace", timings: "list[RequestTimings]") -> dict[str, float]:
    """When the first of the sequences was admitted to the batch and said a token, in seconds from the arrival."""
    found = {
        "admitted": _first((each.submitted_s, each.queue_s) for each in timings),
        "first_token": _first((each.submitted_s, each.ttft_s) for each in timings),
    }
    return {name: at_s - trace.started_s for name, at_s in found.items() if at_s is not None}


def _first(moments: Iterable[tuple[float, float | None]]) -> float | None:
    return min((start_s + after_s for start_s, after_s in moments if after_s is not None), default=None)
