"""Requests made from the server's own OpenAPI document, by schemathesis: none of them is a fault of the server's."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from live import Program

CHECKS = (
    *("no_fault_of_the_server", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)


@pytest.mark.timeout(180)
def test_no_case_is_a_fault_of_the_server(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--threads", "1", "--memory-bytes", "64MiB", "--max-model-len", "256")
    served = Program("demo", *options)
    try:
        engine = served.engine_pid()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json"),
                *("--phases", "fuzzing", "--max-examples", "20", "--seed", "1", "--checks", ",".join(CHECKS)),
                *("--request-timeout", "30", "--max-response-time", "20", "--suppress-health-check", "all"),
                *("--continue-on-failure", "--no-shrink"),
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(Path(__file__).parent)},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert httpx.get(f"{served.url}/health").json()["status"] == "ready"
        assert served.engine_pid() == engine
    finally:
        served.close()
