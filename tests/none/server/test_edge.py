"""Keys, request ids, CORS, logs, metrics, the OpenAPI document."""

import json
import logging
import re

import pytest
from http_fakes import Caller
from prometheus_client.parser import text_string_to_metric_families

from tradewind.engine.client import RequestTimings
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import EngineStats
from tradewind.server.app import ACTIONS, DELETES, GETS, POSTS
from tradewind.server.metrics import Histogram

TEXT = "/v1/completions"


async def test_keys_guard_everything_but_the_open_routes() -> None:
    caller = Caller(api_key="sesame")
    for path in ("/health", "/ping", "/ready", "/load", "/version", "/metrics", "/"):
        assert (await caller.get(path)).status == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic sesame"}, {"authorization": ""}):
        answer = await caller.post(TEXT, {"prompt": "a"}, **headers)
        assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "sesame" not in answer.body.decode()
    assert (await caller.get("/v1/models")).status == 401
    assert (await caller.get("/nowhere")).status == 401
    assert (await caller.post(TEXT, {"prompt": "a"}, authorization="bearer sesame")).status == 200
    assert len(caller.engine.submitted) == 1


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "ü"])
async def test_request_ids_that_are_not_sane_are_replaced(bad: str) -> None:
    answer = await Caller().call("GET", "/health", b"", {"x-request-id": bad})
    assert answer.headers["x-request-id"] != bad
    assert len(answer.headers["x-request-id"]) == 32


async def test_a_request_id_in_the_body_counts_without_a_header() -> None:
    caller = Caller()
    body = {"prompt": "a", "request_id": "from-body"}
    answer = await caller.post(TEXT, body)
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("from-body", "cmpl-from-body")
    answer = await caller.post(TEXT, body, x_request_id="from-header")
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("from-header", "cmpl-from-header")
    answer = await caller.post(TEXT, {**body, "request_id": "two\r\nlines"})
    assert "lines" not in answer.headers["x-request-id"]


async def test_cors_answers_only_the_origins_that_are_allowed() -> None:
    caller = Caller(allowed_origins=("https://a.example",), api_key="k")
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = await caller.call("OPTIONS", TEXT, b"", {"origin": "https://a.example", **ask})
    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
    other = await caller.call("OPTIONS", TEXT, b"", {"origin": "https://b.example", **ask})
    assert other.status == 400
    refused = await caller.post(TEXT, {"prompt": "a"}, origin="https://a.example")
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")


async def test_one_log_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("tradewind").propagate = True
    caller = Caller()
    with caplog.at_level("INFO", "tradewind.server"):
        await caller.post(TEXT, {"prompt": "secret"}, x_request_id="r1")
        await caller.post(TEXT, {"prompt": 3}, x_request_id="r2")
        await caller.get("/health")
        caller.engine.state = "restarting"
        assert (await caller.get("/health")).status == 503
    lines = [record.fields for record in caplog.records]
    assert [line["id"] for line in lines] == ["r1", "r2"]
    assert {"model": "tiny", "prompt_tokens": 6, "completion_tokens": 8, "status": 200}.items() <= lines[0].items()
    assert (lines[1]["status"], lines[1]["error"]) == (400, "invalid_request_error")
    assert "secret" not in str(lines)


async def test_the_metrics_page() -> None:
    caller = Caller()
    engine = caller.engine
    engine.stats = EngineStats(running=3, waiting=2, blocks_total=10, blocks_used=4, prefix_hit_tokens=7, steps=5)
    engine.listener.on_step([0.02], [0.003, 0.003])
    engine.listener.on_finished(
        RequestTimings(
            request_id=1, index=0, finish_reason=FinishReason.LENGTH, prompt_tokens=5, completion_tokens=3,
            cached_tokens=0, submitted_s=1.0, e2e_s=0.2, queue_s=0.01, ttft_s=0.02,
        )
    )  # fmt: skip
    page = (await caller.get("/metrics")).body.decode()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    label = ("model_name", "tiny")
    assert samples["tradewind:num_requests_running", label] == 3
    assert samples["tradewind:num_requests_waiting", label] == 2
    assert samples["tradewind:kv_cache_usage_perc", label] == 0.4
    assert samples["tradewind:prefix_cache_hits_total", label] == 7
    assert samples["tradewind:steps_total", label] == 5
    assert samples["tradewind:inter_token_latency_seconds_count", label] == 2
    assert samples["tradewind:inter_token_latency_seconds_bucket", ("le", "0.005"), label] == 2
    assert samples["tradewind:inter_token_latency_seconds_bucket", ("le", "0.0025"), label] == 0
    assert samples["tradewind:time_to_first_token_seconds_sum", label] == 0.02
    assert samples["tradewind:request_success_total", ("finished_reason", "length"), label] == 1
    assert samples["tradewind:request_queue_time_seconds_count", label] == 1


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe_all([0.5, 1.0, 1.5, 2.5])
    assert histogram.buckets() == [("1", 2.0), ("2", 3.0), ("+Inf", 4.0)]
    assert histogram.total == 5.5


async def test_the_openapi_document_names_every_route_and_resolves() -> None:
    document = (await Caller().get("/openapi.json")).json()
    assert {re.sub(":path", "", path) for path in (*GETS, *POSTS, *ACTIONS, *DELETES)} == set(document["paths"])
    schemas = document["components"]["schemas"]
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(document)))
    assert references == set(schemas)
    for path in document["paths"].values():
        for operation in path.values():
            assert {"200", "4XX", "5XX"} <= set(operation["responses"])
            assert operation["responses"]["200"]["content"]


async def test_the_openapi_document_tells_names_and_bounds() -> None:
    schemas = (await Caller().get("/openapi.json")).json()["components"]["schemas"]
    chat = schemas["ChatRequest"]["properties"]
    assert chat["model"]["enum"] == ["tiny", "alias", None]
    assert (chat["n"]["minimum"], chat["n"]["maximum"]) == (1, 128)
    assert (chat["top_p"]["exclusiveMinimum"], chat["top_p"]["maximum"]) == (0, 1)


async def test_no_torch_is_needed_to_serve() -> None:
    import subprocess
    import sys

    program = "import sys, tradewind.server.app, tradewind.server.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
