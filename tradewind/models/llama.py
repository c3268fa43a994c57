"""Llama 2, 3, 3.1 and later: https://arxiv.org/abs/2307.09288, https://arxiv.org/abs/2407.21783."""

from typing import Any

from tradewind.models.config_reader import ConfigReader
from tradewind.models.family import COMMON_NAMES, Family


def _traits(reader: ConfigReader, layers: int) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return {
        "qkv_bias": bias,
        "out_bias": bias,
        "ffn_bias": reader.flag("mlp_bias", False),
        "windows": (None,) * layers,
    }


LLAMA = Family("Llama", "LlamaForCausalLM", "llama", COMMON_NAMES, _traits)
