"""Mistral: https://arxiv.org/abs/2310.06825. Every layer may have a sliding window."""

from typing import Any

from tradewind.models.config_reader import ConfigReader
from tradewind.models.family import COMMON_NAMES, Family


def _traits(reader: ConfigReader, layers: int) -> dict[str, Any]:
    if reader.has("layer_types"):
        raise reader.refuse("layer_types", "Mistral has one kind of layer")
    # Configs from before the field existed mean 4096; null means no window.
    window = reader.integer("sliding_window", 4096) if reader.raw("sliding_window", 4096) is not None else None
    return {"windows": (window,) * layers}


MISTRAL = Family("Mistral", "MistralForCausalLM", "mistral", COMMON_NAMES, _traits)
