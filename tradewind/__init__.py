"""Tradewind: one inference engine for the whole trade between throughput and latency."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LLM", "BeamSearchParams", "SamplingParams", "StructuredOutputs", "__version__"]

if TYPE_CHECKING:
    from tradewind.engine.llm import LLM
    from tradewind.protocol.sampling import BeamSearchParams, SamplingParams, StructuredOutputs


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import tradewind` costs nothing."""
    if name == "LLM":
        from tradewind.engine.llm import LLM

        return LLM
    if name in ("BeamSearchParams", "SamplingParams", "StructuredOutputs"):
        from tradewind.protocol import sampling

        return getattr(sampling, name)
    raise AttributeError(f"module 'tradewind' has no attribute {name!r}")
