"""How the queries and contexts of a ragged batch are cut into pieces, where a piece is found, and how what two have
found is added: in Triton and Gluon.

Legend as in triton.py.
"""

import triton
from triton import language as tl


@triton.jit
def load_rows(row, query_starts, context_lens, R, window, least, most, GROUP: tl.constexpr, BM: tl.constexpr):
    """(tiles_R, span_R) of the rows with `least` to `most` packed queries; 0 tiles for the others. `row`: 0, 1, ..."""
    begins = tl.load(query_starts + row, mask=row < R, other=0)
    ends = tl.load(query_starts + row + 1, mask=row < R, other=0)
    contexts = tl.load(context_lens + row, mask=row < R, other=0)
    packed = (ends - begins) * GROUP
    tiles = tl.where((packed >= least) & (packed <= most), (packed + BM - 1) // BM, 0)
    return tiles, tl.minimum(contexts, ends - begins + window - 1)


@triton.jit
def longest_piece(tiles_R, span_R, programs, G: tl.constexpr, least, BN: tl.constexpr, ROUNDS: tl.constexpr):
    """How many keys a piece may have that so many programs share out among themselves.

    Rows that are alike are cut into as many pieces as programs can have one of, or none if there are more rows than
    that. If rows differ, a long piece that is begun late would keep all waiting: there is one piece for each program
    if rows are few, and the more rounds the more rows there are (ROUNDS at most). Of rows that are cut anyhow, each
    leaves half a piece over, on average.
    """
    work = tl.sum(tiles_R.to(tl.float32) * span_R.to(tl.float32), 0) * G
    tiles = tl.sum(tiles_R, 0) * G
    longest = tl.max(tl.where(tiles_R > 0, span_R, 0), 0)
    if longest * tiles.to(tl.float32) <= 1.25 * work:
        piece = longest / tl.maximum((longest * programs / tl.maximum(work, 1.0)).to(tl.int32), 1)
    else:
        rounds = tl.minimum(1 + 2 * tiles // programs, ROUNDS)
        piece = work / tl.maximum(rounds * programs - tiles * 0.5, programs * 0.5)
    return tl.maximum(tl.cdiv(piece.to(tl.int32), BN) * BN, least)


@triton.jit
def piece_of(span, longest, STEP: tl.constexpr):
    """The length of the pieces of a row (or of rows) of `span` keys."""
    return tl.cdiv(tl.cdiv(span, tl.maximum(tl.cdiv(span, longest), 1)), STEP) * STEP


@triton.jit
def find_piece(
    item, ends_R, longest, query_starts, context_lens, window, G: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """(row, place, first_token, tokens, context, tiles, splits, head, tile, lo, hi) of a piece.

    `place`: which of its row's pieces it is. `lo`, `hi`: it is of the keys [lo, hi), of which there are none where its
    queries come before them. `ends_R`: how many pieces the rows up to each have.
    """
    row = tl.sum((ends_R <= item).to(tl.int32), 0)
    place = item - tl.max(tl.where(ends_R <= item, ends_R, 0), 0)
    first_token = tl.load(query_starts + row)
    tokens = tl.load(query_starts + row + 1) - first_token
    context = tl.load(context_lens + row)
    tiles = tl.cdiv(tokens * GROUP, BM)
    span = tl.minimum(context, tokens + window - 1)
    splits = tl.cdiv(span, longest)
    split = piece_of(span, longest, STEP)
    # Later tiles see more keys: they come first, so that the last programs to finish have little left.
    head = place % G
    tile = tiles - 1 - (place // G) % tiles
    part = place // (G * tiles)
    tile_first = context - tokens + tile * BM // GROUP
    tile_last = context - tokens + tl.minimum((tile * BM + BM - 1) // GROUP, tokens - 1)
    row_first = tl.maximum(context - tokens - window + 1, 0)
    seen_first = tl.maximum(tile_first - window + 1, 0)
    lo = tl.maximum(row_first + part * split, seen_first)
    hi = tl.minimum(row_first + (part + 1) * split, tile_last + 1)
    return row, place, first_token, tokens, context, tiles, splits, head, tile, lo, hi


@triton.jit
def shared_before(row, each_row, tiles_R, span_R, longest, G: tl.constexpr):
    """How many pieces there are of the contexts before `row` that are cut. `each_row`: 0, 1, ..."""
    is_shared = (each_row < row) & (span_R > longest)
    return tl.sum(tl.where(is_shared, tiles_R * tl.cdiv(span_R, longest) * G, 0), 0)


@triton.jit
def added(peak, mass, acc, part_peak, part_mass, part_acc):
    """(peak, mass, acc) of rows that saw the keys of both: each one's largest score, its weights' sum, its values'.

    Weights are powers of two of scores less the largest; those of the one that has a smaller peak fade.
    """
    both_peak = tl.maximum(peak, part_peak)
    base = tl.where(both_peak == float("-inf"), 0.0, both_peak)
    fade, part_fade = tl.exp2(peak - base), tl.exp2(part_peak - base)
    mass = mass * fade + part_mass * part_fade
    return both_peak, mass, acc * fade[:, None] + part_acc * part_fade[:, None]
