"""The counter-based random numbers."""

import math

import numpy as np

from tradewind.kernels.sample.random import mix, stream_keys, uniforms

MASK = 2**64 - 1


def plain_mix(number: int) -> int:
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ (number >> 27)) * 0x94D049BB133111EB & MASK
    return number ^ (number >> 31)


def test_matches_integer_arithmetic() -> None:
    golden = 0x9E3779B97F4A7C15
    for seed in (0, 1, 2**63, MASK):
        key = plain_mix((seed + golden) & MASK)
        for position in (0, 1, 131_071):
            expected = (plain_mix((key + (position + 1) * golden) & MASK) >> 11) * 2.0**-53
            keys = stream_keys(np.array([seed], np.uint64))
            assert uniforms(keys, np.array([position])).tolist() == [expected]


def test_matches_the_published_generator() -> None:
    # The first three numbers of SplitMix64 seeded with 1234567, as in the test vectors of its reference code.
    states = (np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(1234567)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_is_uniform_over_seeds_and_over_positions() -> None:
    count = 100_000
    over_seeds = uniforms(stream_keys(np.arange(count, dtype=np.uint64)), np.full(count, 5))
    over_positions = uniforms(stream_keys(np.full(count, 9, np.uint64)), np.arange(count))
    for numbers in (over_seeds, over_positions):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.bincount((numbers * 100).astype(int), minlength=100)
        assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * math.sqrt(2 * 99)
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 5 / math.sqrt(count)


def test_a_number_does_not_depend_on_its_company() -> None:
    keys = stream_keys(np.arange(50, dtype=np.uint64))
    together = uniforms(keys, np.arange(50))
    assert [uniforms(keys[i : i + 1], np.array([i]))[0] for i in range(50)] == together.tolist()
