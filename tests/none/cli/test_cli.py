"""The command line: quick help, options from the tree, mistakes answered with what would be right."""

import resource
import subprocess
import sys

import pytest

from tradewind.cli.main import build_parser, main
from tradewind.cli.options import read_sampling, read_settings


def cpu_of_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); from tradewind.cli.main import main; "
    code += "main(['--help'])"
    before_s = cpu_of_children_s()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert cpu_of_children_s() - before_s < 0.8  # the bar is 0.3 s on an idle machine; tests share theirs
    assert "serve" in done.stdout
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "numpy", "fastapi", "transformers", "rich", "pydantic"}


def test_options_reach_the_tree():
    parser, _ = build_parser()
    options = ["serve", "m", "--max-num-seqs", "3", "--no-prefix-caching", "--served-model-name", "a", "b"]
    config = read_settings(parser.parse_args(options))
    assert config.model.model == "m"
    assert config.scheduler.max_running == 3
    assert config.cache.prefix_caching is False
    assert config.server.served_model_name == ("a", "b")


def test_sampling_options_override_the_models_defaults():
    parser, _ = build_parser()
    arguments = parser.parse_args(["generate", "hi", "--temperature", "0", "--stop", "a", "--stop", "b"])
    params = read_sampling(arguments, {"temperature": 0.7, "top_k": 20})
    assert (params.temperature, params.top_k, params.stop) == (0, 20, ["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "status", "wanted"),
    [
        (["serve", "--max-modle-len", "3"], 2, "did you mean '--max-model-len'?"),
        (["serve", "--max-model-len", "three"], 2, "whole number"),
        (["serve", "--device", "gpu"], 2, "did you mean 'cpu'?"),
        (["srve"], 2, "invalid choice: 'srve'"),
    ],
)
def test_mistakes_name_what_would_be_right(arguments, status, wanted, capsys):
    try:
        got = main(arguments)
    except SystemExit as stop:
        got = stop.code
    assert got == status
    assert wanted in capsys.readouterr().err
