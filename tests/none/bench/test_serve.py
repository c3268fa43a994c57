"""`bench serve`, from a server whose device computes nothing."""

import asyncio
import json
from pathlib import Path

from test_gpu_serve import CONFIG

from tradewind.bench import gpu_serve, serve
from tradewind.bench.http import Endpoint, when_ready
from tradewind.bench.server_process import start_server


def test_streams_beside_a_load_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = tmp_path / "model"
    model.mkdir()
    gpu_serve._write_model(tmp_path, model)
    with start_server(str(model), ["--load-format", "dummy", "--device", "fake", "--log-level", "error"]) as (_, port):
        asyncio.run(when_ready(Endpoint("127.0.0.1", port)))
        load = ["--concurrency", "1", "--requests", "2", "--input-tokens", "1500", "--output-tokens", "100"]
        options = ["--url", f"http://127.0.0.1:{port}", "--beside", "3", *load, "--out", str(tmp_path)]
        assert serve.main(options) == 0
    (row,) = json.loads((tmp_path / "serve.json").read_text())["rows"]
    assert (row["requests"], row["failed"]) == (2, 0)
    assert 0 < row["beside: ITL p50 ms"] <= row["beside: ITL p99 ms"] <= row["beside: ITL max ms"]


def test_only_gaps_that_fall_into_the_load_count() -> None:
    trace = serve.Trace(0.0, arrivals_s=[1.0, 2.0, 4.0, 7.0, 11.0])
    assert serve._gaps_s(trace) == [1.0, 2.0, 3.0, 4.0]
    assert serve._gaps_s(trace, 3.0, 6.0) == [2.0, 3.0]
