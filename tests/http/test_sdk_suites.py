"""The SDKs' own tests of the routes that are served here, unchanged, against the built-in model.

The names of models in them are OpenAI's and Anthropic's: the server is started with these names.
"""

import os
from pathlib import Path

import pytest
from anthropic.resources.messages.messages import DEPRECATED_MODELS
from live import Program
from sdk_suites import Suite, download, run

TEXT = "tests/api_resources/test_completions.py"
CHAT = "tests/api_resources/chat/test_completions.py"
RESPONSES = "tests/api_resources/test_responses.py"
MODELS = "tests/api_resources/test_models.py"
CREATES = ("method", "raw_response", "streaming_response")
EVERYTHING = "test_method_create_with_all_params_overload_"

OPENAI = Suite(
    package="openai",
    path="/v1",
    files=(TEXT, CHAT, RESPONSES, MODELS),
    models=("gpt-6-astra", "gpt-3.5-turbo-instruct"),
    context=256,
    unserved=(
        *((CHAT, part) for part in ("_retrieve", "_update", "_list", "_delete")),  # of stored chat completions
        (MODELS, "_delete"),
        (RESPONSES, "_compact"),
        *((RESPONSES, part) for part in ("_retrieve", "_delete", "_cancel")),  # of a response that nobody has made
    ),
    # Each of these sends every parameter at once, with made-up values. The first that is refused is named.
    refused=(
        (TEXT, f"{EVERYTHING}1", "stream_options"),  # without a stream
        (TEXT, f"{EVERYTHING}2", "suffix"),
        (CHAT, f"{EVERYTHING}1", "functions"),  # the old name of tools
        (CHAT, f"{EVERYTHING}2", "functions"),
        (RESPONSES, f"{EVERYTHING}1", "conversation"),
        (RESPONSES, f"{EVERYTHING}2", "conversation"),
        # These send nothing at all.
        *((RESPONSES, f"test_{how}_create_overload_{n}", "input") for how in CREATES for n in (1, 2)),
    ),
)
ANTHROPIC = Suite(
    package="anthropic",
    files=("tests/api_resources/test_messages.py", "tests/api_resources/beta/test_messages.py"),
    models=("claude-opus-5-5", *DEPRECATED_MODELS),
    context=2048,
    options=("-p", "tests._alias_httpx"),  # as the suite's own settings have it
)


@pytest.mark.parametrize("suite", [OPENAI, ANTHROPIC], ids=lambda suite: suite.package)
@pytest.mark.timeout(300)
def test_the_suite_of(suite: Suite, tmp_path: Path) -> None:
    folder = download(suite.package)
    if isinstance(folder, str):
        if "CI" in os.environ:
            pytest.fail(folder)
        pytest.skip(folder)
    options = ("--device", "cpu", "--threads", "1", "--memory-bytes", "64MiB")
    served = Program("demo", *options, "--max-model-len", str(suite.context), "--served-model-name", *suite.models)
    try:
        outcome = run(suite, folder, served.url, tmp_path / "report.xml")
    finally:
        served.close()
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert outcome.counts["passed"] > 90, outcome.counts
