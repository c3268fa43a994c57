"""Sizes that steps are rounded up to, so that few of them need a graph of their own.

A step of n tokens runs as the least bucket that holds it. Buckets are dense, because what is filled up is computed too:
never more than an eighth of a step, and seldom a sixteenth.
"""

from bisect import bisect_left
from collections.abc import Iterator

_LEAST_MIXED = 32


def row_buckets(most: int) -> tuple[int, ...]:
    """For steps of one token a row, up to `most` rows."""
    return _upto(most, _steps(1, ((8, 0), (128, 8), (256, 16), (512, 32), (1 << 30, 64))))


def token_buckets(most: int) -> tuple[int, ...]:
    """For steps that compute prompts too, up to `most` tokens."""
    return _upto(most, _steps(_LEAST_MIXED, ((256, 32), (1024, 64), (2048, 128), (4096, 256), (1 << 30, 512))))


def wanted_graphs(max_running: int, step_tokens: int) -> list[tuple[str, int]]:
    """(kind, size) of all graphs there might be, the most worth having first.

    "plain": whole steps of one token a row, by rows; "decode": their first half alone; "mixed": that of all other
    steps, by tokens; "head": the second half of either, by rows.
    """
    by_tokens, by_rows = coarse_first(token_buckets(step_tokens)), coarse_first(row_buckets(max_running))
    heads = [("head", size) for size in by_rows]
    decodes = [(kind, size) for kind in ("plain", "decode") for size in by_rows if size <= step_tokens]
    # The largest first: the others use its memory.
    return [("mixed", by_tokens[0]), *heads, *decodes, *(("mixed", size) for size in by_tokens[1:])]


def fitting(buckets: tuple[int, ...], size: int) -> int | None:
    """The least of the ascending `buckets` that holds `size`; None if none does."""
    place = bisect_left(buckets, size)
    return buckets[place] if place < len(buckets) else None


def coarse_first(buckets: tuple[int, ...]) -> list[int]:
    """The order in which they are worth having: the largest, then powers of two downwards, then those between.

    The largest comes first also because the smaller ones then live in the memory that it took.
    """
    coarse = {size for size in buckets if size & (size - 1) == 0} | {buckets[-1]}
    return sorted(coarse, reverse=True) + sorted(set(buckets) - coarse, reverse=True)


def _steps(first: int, pace: tuple[tuple[int, int], ...]) -> Iterator[int]:
    """Ascending sizes: up to each bound by its step; a step of 0 doubles."""
    size = first
    for bound, step in pace:
        while size < bound:
            yield size
            size = size + step if step else 2 * size


def _upto(most: int, sizes: Iterator[int]) -> tuple[int, ...]:
    """The sizes below `most`, and `most`."""
    found = []
    for size in sizes:
        if size >= most:
            break
        found.append(size)
    return (*found, most)
