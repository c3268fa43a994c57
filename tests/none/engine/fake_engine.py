"""An engine process around the fake runner: the options are the last argument, as JSON."""

import json
import string
import sys
from pathlib import Path
from typing import Any

import tradewind
from tradewind.base import errors
from tradewind.config import Config, from_flat
from tradewind.engine.core import Engine, ProgressCall, join
from tradewind.protocol.plan import RunnerInfo
from tradewind.runner.fake import FakeRunner, Faults, StepCost

CHARACTERS = sorted(set(string.printable) - set(string.whitespace) | {" "})  # token i is CHARACTERS[i]
EOS_ID = len(CHARACTERS)
VOCAB = EOS_ID + 1


def text_of(tokens: list[int]) -> str:
    """What these tokens say."""
    return "".join(CHARACTERS[token] for token in tokens if token != EOS_ID)


def runner_info(**changes: Any) -> RunnerInfo:
    """A small fake device."""
    values: dict[str, Any] = {
        "num_blocks": 512,
        "block_tokens": 4,
        "max_model_len": 512,
        "max_running": 64,
        "step_tokens": 256,
        "vocab_size": VOCAB,
        "asynchronous": False,
        "device": "fake",
        "dtype": "none",
        "weights_bytes": 0,
        "kv_bytes": 0,
    }
    return RunnerInfo(**{**values, **changes})


def runner(options: dict[str, Any]) -> FakeRunner:
    """The fake runner of these options."""
    faults = Faults(
        broken_steps={step: RuntimeError("the device is on fire") for step in options.get("broken_steps", [])},
        hung_steps=frozenset(options.get("hung_steps", [])),
    )
    cost = StepCost(base_s=options.get("cost_s", 0.0))
    return FakeRunner(runner_info(**options.get("info", {})), cost, faults=faults)


def build(directory: Path, config: Config, on_progress: ProgressCall) -> Engine:
    """As `core.build_engine`, without a model."""
    options = json.loads(sys.argv[-1])
    on_progress("loading nothing", 0.5)
    if "startup_error" in options:
        raise getattr(errors, options["startup_error"])("no such thing; try another", field="model")
    marker = Path(options.get("first_life", ""))
    if options.get("first_life") and marker.exists():
        options = options["later_lives"]
        if options.get("exit"):
            sys.exit(3)
        if "startup_error" in options:
            marker.unlink()  # the life after that has a chance
            raise getattr(errors, options["startup_error"])("no such thing; try another", field="model")
    elif options.get("first_life"):
        marker.touch()
    return join(runner(options), config)


def config_for(directory: Path, **settings: Any) -> Config:
    """Settings for the fake engine."""
    return from_flat({"model": str(directory), "device": "fake", "log_level": "error", **settings})


def command(options: dict[str, Any]) -> list[str]:
    """What starts it: '{"cost_s": 0.001, "hung_steps": [3]}'."""
    program = (
        "import sys; sys.path += sys.argv[1:3]; from fake_engine import build; "
        "from tradewind.engine.process import main; main(build)"
    )
    folders = [str(Path(tradewind.__file__).parents[1]), str(Path(__file__).parent)]
    return [sys.executable, "-c", program, *folders, json.dumps(options)]
