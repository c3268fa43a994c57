"""`tradewind top`: rates from counters, and one picture of a server."""

import argparse
import copy
import json
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from rich.console import Console

from tradewind.base.errors import ConfigError
from tradewind.cli.main import main
from tradewind.cli.top import Rates, address, block_map, frame, quantile, rates, run, sparkline
from tradewind.protocol.result import EngineStats

BOUNDS = [0.01, 0.1, 1.0]


def state(**changes: Any) -> dict[str, Any]:
    histogram = {"bounds": BOUNDS, "counts": [0, 0, 0, 0], "sum": 0.0}
    row = {
        "request": "chat-1", "request_id": 5, "state": "decode", "slot": 0, "age_s": 2.0, "prompt_tokens": 10,
        "computed_tokens": 12, "output_tokens": 3, "max_tokens": 20, "blocks": 2, "preemptions": 0, "priority": 0,
    }  # fmt: skip
    stats = {name: getattr(EngineStats(), name) for name in EngineStats.__struct_fields__}
    whole = {
        "status": "ready", "message": None, "version": "0", "model": "tiny", "time_s": 100.0, "restarts": 0,
        "engine": {"device": "cpu", "dtype": "float32", "max_model_len": 64, "max_running": 8, "kv_bytes": 2**20},
        "stats": {**stats, "running": 1, "blocks_total": 8, "blocks_used": 2}, "rows": [row],
        "blocks": {"cell_blocks": 1, "runs": [[5, 2], [-3, 1], [-2, 1], [-1, 4]]},
        "latency": {name: copy.deepcopy(histogram) for name in ("time_to_first_token", "inter_token", "queue", "e2e")},
    }  # fmt: skip
    return {**whole, **changes}


def test_rates_are_differences():
    before, now = state(), state(time_s=102.0)
    now["stats"] = {**before["stats"], "steps": 4, "output_tokens": 20, "prompt_tokens": 10, "device_s": 0.2}
    now["latency"]["inter_token"]["counts"] = [0, 10, 0, 0]
    found = rates(before, now)
    assert (found.output_tokens_s, found.prompt_tokens_s, found.step_s) == (10.0, 5.0, 0.05)
    assert found.inter_token_s == (pytest.approx(0.055), pytest.approx(0.0955))
    assert found.first_token_s == (None, None)
    assert rates(now, state(time_s=103.0)) is None  # the counters began again


@pytest.mark.parametrize(
    ("counts", "wanted"), [([4, 0, 0, 0], 0.005), ([0, 0, 4, 0], 0.55), ([0, 0, 0, 4], 1.0), ([0, 0, 0, 0], None)]
)
def test_quantiles(counts, wanted):
    found = quantile(0.5, BOUNDS, counts)
    assert found == (None if wanted is None else pytest.approx(wanted))


def test_lines_and_maps():
    assert sparkline([None, 0.0, 1.0, 8.0]) == "  ▁█"
    assert sparkline([]) == ""
    assert block_map([[5, 2], [-3, 1], [-2, 1], [-1, 4]], 80).plain == "███▒····"
    assert len(block_map([[-1, 100_000], [7, 1]], 80).plain) <= 4 * 80
    assert block_map([[-1, 100_000], [7, 1]], 80).plain.endswith("█")


def test_what_is_hidden_is_counted():
    many = state(rows=[state()["rows"][0]] * 30)
    many["stats"]["running"], many["stats"]["waiting"] = 30, 100
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(frame(many, deque[Rates](), 100))
    assert "and 106 more" in console.export_text()


@pytest.fixture
def url() -> Iterator[str]:
    """A server with one engine, whose key is 'sesame'."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers["Authorization"] == "Bearer sesame" else 401)
            self.end_headers()
            self.wfile.write(json.dumps(state()).encode())

        def log_message(self, *_arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_picture(url, capsys):
    assert run(argparse.Namespace(url=url, api_key="sesame", interval=0.05, once=True)) == 0
    said = capsys.readouterr().out
    for word in ("ready", "tiny", "chat-1", "decode", "25.0%", "███▒····"):
        assert word in said


def test_what_is_wrong_is_said(url, capsys):
    assert main(["top", url, "--once"]) == 1
    assert "--api-key" in capsys.readouterr().err
    assert main(["top", "127.0.0.1:9", "--once"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        address("ftp://somewhere")
    assert address("localhost:80/v1/") == "http://localhost:80"
