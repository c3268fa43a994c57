"""One uniform number per (seed, position): counter-based, so that a draw depends on its request alone.

SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), used as a counter:
key = mix(seed), number = mix(key + (position + 1) * GOLDEN), uniform = (number >> 11) * 2**-53. Hashing the seed first
keeps the streams of nearby seeds from being shifted copies of each other. All arithmetic is on unsigned 64-bit numbers,
modulo 2**64, on the host: seeds and positions are known there, and every machine gives the same bits.
"""

import numpy as np
from numpy.typing import NDArray

UInt64s = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_THIRTY, _TWENTY_SEVEN, _THIRTY_ONE, _ELEVEN = (np.uint64(bits) for bits in (30, 27, 31, 11))


def mix(numbers: UInt64s) -> UInt64s:
    """SplitMix64's finalizer: a bijection of 64-bit integers in which every input bit touches every output bit."""
    numbers = (numbers ^ (numbers >> _THIRTY)) * _FIRST
    numbers = (numbers ^ (numbers >> _TWENTY_SEVEN)) * _SECOND
    return numbers ^ (numbers >> _THIRTY_ONE)


def stream_keys(seeds: UInt64s) -> UInt64s:
    """The keys of the streams of these seeds (uint64)."""
    return mix(seeds + _GOLDEN)


def uniforms(keys: UInt64s, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """The number in [0, 1), with 53 random bits, of each key at a position (of the drawn token in its sequence)."""
    counters = (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    return (mix(keys + counters) >> _ELEVEN).astype(np.float64) * 2.0**-53
