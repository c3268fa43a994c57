"""The Grafana dashboard in the documentation and the metrics page name the same metrics."""

import json
import re
from pathlib import Path
from typing import Any

from http_fakes import Caller
from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).parents[3] / "docs" / "grafana" / "tradewind.json"
PARTS = ("_bucket", "_count", "_sum", "_created")


async def samples() -> dict[str, set[str]]:
    """The names of all samples, each with its labels."""
    caller = Caller()
    await caller.post("/v1/completions", {"prompt": "a"})
    page = (await caller.get("/metrics")).body.decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(value: Any) -> list[str]:
    """Every PromQL expression in a dashboard."""
    if isinstance(value, dict):
        own = [value[key] for key in ("expr", "query") if isinstance(value.get(key), str)]
        return own + [text for child in value.values() for text in expressions(child)]
    return [text for child in value for text in expressions(child)] if isinstance(value, list) else []


async def test_the_dashboard_matches_the_metrics_page() -> None:
    known = await samples()
    texts = expressions(json.loads(DASHBOARD.read_text()))
    named = {name for text in texts for name in re.findall(r"tradewind:\w+", text)}
    assert named - known.keys() == set(), "these metrics do not exist"
    shown = {re.sub(rf"({'|'.join(PARTS)})$", "", name) for name in named}
    there = {re.sub(rf"({'|'.join(PARTS)})$", "", name) for name in known}
    assert there - shown == set(), "these metrics are not on the dashboard"


VLLM = (
    *("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"),
    *("prefix_cache_queries_total", "prefix_cache_hits_total", "prompt_tokens_total", "generation_tokens_total"),
    *("request_success_total", "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket"),
    *("request_time_per_output_token_seconds_bucket", "e2e_request_latency_seconds_bucket"),
    *("request_queue_time_seconds_bucket", "request_prefill_time_seconds_bucket"),
    *("request_decode_time_seconds_bucket", "request_inference_time_seconds_bucket"),
    *("request_prompt_tokens_bucket", "request_generation_tokens_bucket", "request_params_max_tokens_bucket"),
    "request_params_n_bucket",
)


async def test_what_vllms_users_chart_is_there_under_the_same_name() -> None:
    known = await samples()
    for name in VLLM:
        assert "model_name" in known[f"tradewind:{name}"], name
    assert "finished_reason" in known["tradewind:request_success_total"]


async def test_the_dashboard_uses_labels_that_exist() -> None:
    known = await samples()
    for text in expressions(json.loads(DASHBOARD.read_text())):
        for name, selector in re.findall(r"(tradewind:\w+)\{([^}]*)\}", text):
            for label in re.findall(r"(\w+)\s*[=!]", selector):
                assert label in known[name], (name, label)


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
