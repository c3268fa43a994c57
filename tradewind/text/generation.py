"""What a checkpoint says about how to sample from it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradewind.base.errors import CheckpointError
from tradewind.text.files import read_object_if_there

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer

_FILE = "generation_config.json"


@dataclass(frozen=True)
class GenerationDefaults:
    """Sampling settings for requests that set none (None: the checkpoint says nothing), and the ends of sequence."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: frozenset[int] = frozenset()

    @classmethod
    def load(cls, directory: Path, tokenizer: "Tokenizer | None" = None) -> "GenerationDefaults":
        """Read generation_config.json and config.json, each if there.

        `eos_token_ids` unites those of both files and the tokenizer's own. Raises CheckpointError naming the file and
        the value that is wrong.
        """
        generation = read_object_if_there(directory / _FILE)
        config = read_object_if_there(directory / "config.json")
        ends = {*_token_ids(generation, _FILE), *_config_token_ids(config)}
        if tokenizer is not None and tokenizer.eos_token_id is not None:
            ends.add(tokenizer.eos_token_id)
        return cls(
            temperature=_number(generation, "temperature", 0.0, math.inf),
            top_p=_number(generation, "top_p", 0.0, 1.0),
            top_k=_whole_number(generation, "top_k", -1),
            min_p=_number(generation, "min_p", 0.0, 1.0),
            repetition_penalty=_number(generation, "repetition_penalty", 0.0, math.inf),
            max_new_tokens=_whole_number(generation, "max_new_tokens", 1),
            eos_token_ids=frozenset(ends),
        )

    def sampling(self) -> dict[str, float]:
        """The fields of SamplingParams that the checkpoint sets."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _config_token_ids(config: dict[str, Any]) -> Iterator[int]:
    yield from _token_ids(config, "config.json")
    text_config = config.get("text_config")  # checkpoints that wrap a language model among other parts
    if isinstance(text_config, dict):
        yield from _token_ids(text_config, "config.json")


def _token_ids(config: dict[str, Any], file: str) -> Iterator[int]:
    value = config.get("eos_token_id")
    for token_id in value if isinstance(value, list) else [value]:
        if token_id is None:
            continue
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise CheckpointError(f"{file}: eos_token_id must be token ids, not {token_id!r}", field=file)
        yield token_id


def _number(config: dict[str, Any], name: str, low: float, high: float) -> float | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise CheckpointError(f"{_FILE}: {name} must be a number from {low} to {high}, not {value!r}", field=_FILE)
    return float(value)


def _whole_number(config: dict[str, Any], name: str, low: int) -> int | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise CheckpointError(f"{_FILE}: {name} must be a whole number, {low} or more, not {value!r}", field=_FILE)
    return value
