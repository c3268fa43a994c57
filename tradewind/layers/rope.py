"""Rotary position embedding: the table of cosines and sines, with the scalings that checkpoints ask for."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class RopeSpec:
    """How positions become angles.

    default: angle = position * theta^(-2i/K) for pair i (https://arxiv.org/abs/2104.09864).
    linear: positions are divided by `factor` (https://arxiv.org/abs/2306.15595).
    llama3: frequencies with a wavelength over original_max_position / low_freq_factor are divided by `factor`, those
    under original_max_position / high_freq_factor are kept, and those between are interpolated (Llama 3.1).
    """

    theta: float
    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


def cos_sin_table(spec: RopeSpec, head_dim: int, positions: int, device: torch.device | str = "cpu") -> Tensor:
    """cos_sin_PK, float32: for each position K/2 cosines, then K/2 sines.

    Angles are float32 products, as in the reference implementations that checkpoints were trained with.
    """
    angles_P2 = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies(spec, head_dim))
    table_PK = torch.empty(positions, head_dim, dtype=torch.float32)
    torch.cos(angles_P2, out=table_PK[:, : head_dim // 2])
    torch.sin(angles_P2, out=table_PK[:, head_dim // 2 :])
    return table_PK.to(device)


def frequencies(spec: RopeSpec, head_dim: int) -> Tensor:
    """Radians per position of each of the K/2 pairs, float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / (spec.theta**exponents)
    if spec.kind == "default":
        return plain
    if spec.kind == "linear":
        return plain / spec.factor
    wavelengths = 2 * math.pi / plain
    smooth = (spec.original_max_position / wavelengths - spec.low_freq_factor) / (
        spec.high_freq_factor - spec.low_freq_factor
    )
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * plain / spec.factor + smooth * plain
