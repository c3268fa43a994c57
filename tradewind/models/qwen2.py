"""Qwen2 and Qwen2.5: https://arxiv.org/abs/2407.10671. Bias on q, k and v; the upper layers may have a window."""

from typing import Any

from tradewind.models.config_reader import ConfigReader
from tradewind.models.family import COMMON_NAMES, Family, upper_layer_windows


def _traits(reader: ConfigReader, layers: int) -> dict[str, Any]:
    return {"qkv_bias": True, "windows": upper_layer_windows(reader, layers)}


QWEN2 = Family("Qwen2", "Qwen2ForCausalLM", "qwen2", COMMON_NAMES, _traits)
