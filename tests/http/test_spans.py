"""Spans of requests, as a collector receives them; and what a collector that is not well does to requests."""

import asyncio
import gzip
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Inside, run_serve, serving
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tradewind.base.errors import ConfigError
from tradewind.server import spans

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """What an OTLP collector was sent."""

    def __init__(self) -> None:
        collector = self
        self.paths: list[str] = []
        self.spans: list[Any] = []
        self.services: set[str] = set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.paths.append(self.path)
                for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.services |= {_plain(each.value) for each in group.resource.attributes}
                    collector.spans += [span for scope in group.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def span(self, request_id: str) -> tuple[Any, dict[str, Any]]:
        """The span of a request, and its attributes."""
        found = [
            (span, attributes)
            for span in self.spans
            if (attributes := _attributes(span))["gen_ai.request.id"] == request_id
        ]
        assert len(found) == 1, self.spans
        return found[0]


def _attributes(span: Any) -> dict[str, Any]:
    return {each.key: _plain(each.value) for each in span.attributes}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


async def ask(server: Inside, request_id: str, path: str = "/v1/completions", **rest: Any) -> httpx.Response:
    headers = {"x-request-id": request_id, **rest.pop("headers", {})}
    async with httpx.AsyncClient(verify=False) as client:
        return await client.post(server.url + path, json={"prompt": "Once upon", **rest}, headers=headers)


async def test_a_span_tells_how_a_request_went(collector: Collector, stories: Path) -> None:
    before_ns = time.time_ns()
    async with serving(stories, otlp_traces_endpoint=collector.url) as server:
        parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        asked = {"max_tokens": 9, "temperature": 0.5, "n": 2, "ignore_eos": True}
        assert (await ask(server, "good", headers=parent, **asked)).status_code == 200
        assert (await ask(server, "stream", stream=True, max_tokens=2)).status_code == 200
        assert (await ask(server, "wrong", temperature=-1)).status_code == 400
        assert (await ask(server, "words", path="/tokenize")).status_code == 200
        assert (await ask(server, "unseen", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})).status_code == 200
        async with httpx.AsyncClient() as client:
            await client.get(f"{server.url}/metrics")
    assert set(collector.paths) == {"/v1/traces"}
    assert "tradewind" in collector.services
    assert len(collector.spans) == 4  # none of /metrics, and none where the client does not sample
    span, attributes = collector.span("good")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (span.name, span.kind) == ("text_completion tiny", 2)
    assert before_ns < span.start_time_unix_nano < span.end_time_unix_nano < time.time_ns()
    prompt_tokens = attributes["gen_ai.usage.input_tokens"]
    assert prompt_tokens > 1
    assert attributes["gen_ai.usage.output_tokens"] == 18
    expected = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.choice.count": 2,
        "gen_ai.response.finish_reasons": ["length", "length"],
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
    }
    assert expected.items() <= attributes.items()
    total_s = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    names = ("time_in_queue", "time_in_model_prefill", "time_in_model_decode")
    queue_s, prefill_s, decode_s = (attributes[f"gen_ai.latency.{name}"] for name in names)
    first_s, duration_s = (attributes[f"gen_ai.server.{name}"] for name in ("time_to_first_token", "request.duration"))
    assert 0 <= queue_s < queue_s + prefill_s <= first_s < duration_s <= total_s
    assert decode_s == pytest.approx(duration_s - first_s)
    assert attributes["gen_ai.server.time_per_output_token"] == pytest.approx(decode_s / 8)
    assert [event.name for event in span.events] == ["admitted", "first_token"]
    assert span.events[1].time_unix_nano - span.start_time_unix_nano == pytest.approx(first_s * 1e9, abs=2e6)
    assert "Once" not in str(span)
    span, attributes = collector.span("wrong")
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (400, "invalid_request_error")
    assert span.status.code == 0  # the client's fault
    assert collector.span("words")[0].name == "POST /tokenize"
    assert collector.span("stream")[1]["gen_ai.response.finish_reasons"] == ["length"]


@pytest.mark.parametrize("how", ["closed", "silent"])
async def test_a_collector_that_is_not_well_costs_requests_nothing(stories: Path, how: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if how == "silent":
            listener.listen()  # connections come in, and are never answered
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces"
        async with serving(stories, otlp_traces_endpoint=endpoint, max_waiting=4096) as server:
            start_s = time.monotonic()
            for _ in range(3):
                answers = await asyncio.gather(*(ask(server, f"r{number}", max_tokens=1) for number in range(12)))
                assert {answer.status_code for answer in answers} == {200}
            assert time.monotonic() - start_s < 10
            start_s = time.monotonic()
            assert (await ask(server, "last", max_tokens=1)).status_code == 200
            assert time.monotonic() - start_s < spans.EXPORT_TIMEOUT_S
            closing_s = time.monotonic()
        assert time.monotonic() - closing_s < spans.CLOSE_TIMEOUT_S + 3


def test_without_the_extra_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setattr(spans, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'tradewind\[otel\]'"):
        spans.check_endpoint("http://127.0.0.1:4318")


def test_a_wrong_endpoint_is_refused_at_once() -> None:
    status, said = run_serve("demo", "--port", "0", "--otlp-traces-endpoint", "collector:4317")
    assert status == 1
    assert "must be the http(s) URL" in said
