"""A runner that computes nothing, in the shape of a model's config.json. No torch."""

import json
from pathlib import Path

from tradewind.base.errors import CheckpointError, ModelNotFound
from tradewind.config import Config
from tradewind.protocol.plan import RunnerInfo
from tradewind.runner.fake import FakeRunner, StepCost

MAX_RUNNING = 256
STEP_TOKENS = 2048
MAX_BLOCKS = 16384
# About what an 8B model takes on one data-centre GPU.
COST = StepCost(base_s=6e-3, per_token_s=3e-5)


def boot_fake(directory: Path, config: Config) -> FakeRunner:
    """Vocabulary and length are the model's. Raises ModelNotFound or CheckpointError if config.json cannot be used."""
    vocab_size, model_len = _read(directory / "config.json")
    max_model_len = config.model.max_model_len or model_len
    max_running = config.scheduler.max_running or MAX_RUNNING
    per_sequence = -(-max_model_len // config.cache.block_tokens)
    info = RunnerInfo(
        num_blocks=max(per_sequence, min(max_running * per_sequence, MAX_BLOCKS)),
        block_tokens=config.cache.block_tokens,
        max_model_len=max_model_len,
        max_running=max_running,
        step_tokens=config.scheduler.step_tokens or STEP_TOKENS,
        vocab_size=vocab_size,
        asynchronous=True,
        device="fake",
        dtype="none",
        weights_bytes=0,
        kv_bytes=0,
    )
    return FakeRunner(info, COST, verify=False)


def _read(path: Path) -> tuple[int, int]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return int(values["vocab_size"]), int(values["max_position_embeddings"])
    except FileNotFoundError:
        raise ModelNotFound(f"{path.parent} has no config.json: not the directory of a model", field="model") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} lacks a usable vocab_size or max_position_embeddings", field=str(path)
        ) from error
