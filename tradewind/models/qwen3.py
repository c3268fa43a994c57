"""Qwen3 (dense): https://arxiv.org/abs/2505.09388. Norms on the heads of q and k; upper layers may have a window."""

from typing import Any

from tradewind.models.config_reader import ConfigReader
from tradewind.models.family import COMMON_NAMES, Family, upper_layer_windows


def _traits(reader: ConfigReader, layers: int) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {"qk_norm": True, "qkv_bias": bias, "out_bias": bias, "windows": upper_layer_windows(reader, layers)}


QWEN3 = Family("Qwen3", "Qwen3ForCausalLM", "qwen3", COMMON_NAMES, _traits, head_dim=128)
