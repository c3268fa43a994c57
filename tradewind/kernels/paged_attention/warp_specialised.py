"""Attention of many queries on Hopper, in Gluon: a program's warps do different things beside each other.

Four warps find the work and bring keys and values into rings of shared memory, two times four multiply. Each of these
two has half of a tile's rows: while one weighs its scores, the tensor cores multiply for the other
(https://arxiv.org/abs/2407.08608). They might multiply for itself, too, the values of the keys before, which are asked
for earlier; but compilers have a thread wait for these before it weighs. Nobody waits for all: whoever fills a place of
a ring says so, and whoever has read it. Values of 8 bits are widened on their way, since they have to stand in shared
memory the other way round, for which 8 bits are too few; queries are sums of two numbers of 8 bits then, and keys are
multiplied as they are (many_queries.py). What pieces there are, and who adds them up, is as in triton.py.

Keys and values are copied by threads, 16 bytes at a time. The tensor memory accelerator would have to be told of every
run of keys that lie one after the other, which are no more than a block's: that took as long as multiplying them.

Legend beyond triton.py's: HALF rows of each of the two; KS, VS, WS places for tiles of keys, of values as they are
multiplied, and of values as they are stored.
"""

from typing import Any

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_wait

from tradewind.kernels.gpu import Chip
from tradewind.kernels.paged_attention.many_queries import in_two
from tradewind.kernels.paged_attention.pieces import added, find_piece, load_rows, longest_piece, shared_before

HALF = gl.constexpr(64)
ROWS = 2 * HALF.value
KEYS = 128
_WIDTHS = (64, 128)  # of heads
_LINE_BYTES = gl.constexpr(128)  # of shared memory, which numbers are moved about within
_LEAST_WINDOW = 512  # keys: with shorter ones pieces are short, and take longer so. Measured on an H200.
_PLACES = {1: (3, 3, 2), 2: (3, 2, 0)}  # by the bytes of a key's number: KS, VS, WS
_MULTIPLIES_IN, _BRINGS_IN = 208, 88  # registers of a thread; 200 and 104 were slower, and so were 216 and 72

# What is told of a piece, in its place.
_LETTERS = gl.constexpr(2)
_FIELDS = gl.constexpr(16)
_FIRST_TOKEN, _TOKENS, _CONTEXT, _HEAD, _TILE, _LO, _HI, _SPLITS, _PLACE, _FIRST_PLACE, _STRIDE, _IS_ONE = (
    gl.constexpr(at) for at in range(12)
)

# Triton 3.6 and what came after it have other names.
_copy_from = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
_REINTERPRETS = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))
_HAS_BARRIER = gl.constexpr(hasattr(gl, "barrier"))


@gluon.jit
def _seen_as(memory, dtype: gl.constexpr, shape: gl.constexpr, layout: gl.constexpr):
    if _REINTERPRETS:
        return memory.reinterpret(dtype, shape, layout)
    else:
        return memory._reinterpret(dtype, shape, layout)


@gluon.jit
def _meet():
    """All warps of this part."""
    if _HAS_BARRIER:
        gl.barrier()
    else:
        gl.thread_barrier()


@gluon.jit
def _barriers(PLACES: gl.constexpr, COUNT: gl.constexpr):
    """One for each place, which so many have to arrive at."""
    made = gl.allocate_shared_memory(gl.int64, [PLACES, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(PLACES):
        mbarrier.init(made.index(place), count=COUNT)
    return made


@gluon.jit
def _field(letter, AT: gl.constexpr):
    """A number that was told."""
    at = gl.arange(0, _FIELDS, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    return gl.sum(gl.where(at == AT, letter, 0), 0)


@gluon.jit
def _tiles_of(lo, hi, BN: gl.constexpr, HAS_WINDOW: gl.constexpr):
    """(first key, count) of a piece's tiles of keys: one at least, also where its queries see none of its keys."""
    first = lo // BN * BN if HAS_WINDOW else lo
    return first, gl.maximum(gl.cdiv(hi - first, BN), 1)


# --- who brings ------------------------------------------------------------------------------------------------------


@gluon.jit
def _send(numbers, COUNT: gl.constexpr, letters, turn):
    """Tell the others of a piece; of none, once there is none left."""
    memory, is_full, is_empty = letters
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    at = gl.arange(0, _FIELDS, layout)
    letter = gl.zeros([_FIELDS], gl.int32, layout)
    for field in gl.static_range(COUNT):
        letter = gl.where(at == field, numbers[field], letter)
    mbarrier.wait(is_empty.index(turn % _LETTERS), (turn // _LETTERS & 1) ^ 1)
    memory.index(turn % _LETTERS).store(letter)
    mbarrier.arrive(is_full.index(turn % _LETTERS), count=1)


@gluon.jit
def _rows_of(table, start, lo, hi, first_row, block_rows, each_key, S: gl.constexpr, HAS_WINDOW: gl.constexpr):
    """Where the keys from `start` lie, in the pages' rows: in place of those outside of [lo, hi), the ones at its ends.
    uint32: 2^32 rows of 64 numbers in 8 bits are 256 GiB.

    Those have no weight, but their values are multiplied with it, and must be numbers.
    """
    key = start + each_key
    own = gl.minimum(key, hi - 1)
    if HAS_WINDOW:
        own = gl.maximum(own, lo)
    return gl.load(table + own // S).to(gl.uint32) * block_rows + first_row + own % S


@gluon.jit
def _numbers(pages, row, K: gl.constexpr, layout: gl.constexpr):
    """Where all numbers of these rows are."""
    column = gl.expand_dims(gl.arange(0, K, gl.SliceLayout(0, layout)), 0)
    return pages + (gl.expand_dims(row.to(gl.int64) * K, 1) + column)


@gluon.jit
def _produce(
    k_pages, v_pages, block_rows, query_starts, context_lens, block_tables, table_stride, dealt, R, least, most, window,
    least_split, letters, keys, values, G: gl.constexpr, GROUP: gl.constexpr, K: gl.constexpr, BN: gl.constexpr,
    BLOCK_R: gl.constexpr, S: gl.constexpr, HAS_WINDOW: gl.constexpr, EIGHT_BITS: gl.constexpr, STEP: gl.constexpr,
    ROUNDS: gl.constexpr, KS: gl.constexpr, VS: gl.constexpr, WS: gl.constexpr,
):  # fmt: skip
    k_tiles, k_is_full, k_is_empty = keys
    v_stored, v_tiles, v_is_full, v_is_empty = values
    BM: gl.constexpr = 2 * HALF
    AT_ONCE: gl.constexpr = 128 // k_tiles.dtype.primitive_bitwidth  # numbers of 16 bytes
    layout: gl.constexpr = gl.BlockedLayout(
        [1, AT_ONCE], [32 * AT_ONCE // K, K // AT_ONCE], [gl.num_warps(), 1], [1, 0]
    )
    each_key = gl.arange(0, BN, gl.SliceLayout(1, layout))
    each_row = gl.arange(0, BLOCK_R, gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    tiles_R, span_R = load_rows(each_row, query_starts, context_lens, R, window, least, most, GROUP, BM)
    programs = gl.num_programs(0)
    longest = longest_piece(tiles_R, span_R, programs, G, least_split, BN, ROUNDS)
    items_R = tiles_R * gl.cdiv(span_R, longest) * G
    ends_R = gl.associative_scan(items_R, 0, _plus)
    total = gl.sum(items_R, 0)
    item = gl.program_id(0)
    brought = 0  # tiles
    turn = 0
    row_before = each_key.to(gl.uint32)
    while item < total:
        owner, local, first_token, tokens, context, tiles, splits, head, tile, lo, hi = find_piece(
            item, ends_R, longest, query_starts, context_lens, window, G, GROUP, BM, STEP
        )
        shared = shared_before(owner, each_row, tiles_R, span_R, longest, G)
        stride = G * tiles
        place, first_place = shared + local, shared + local % stride
        told = (first_token, tokens, context, head, tile, lo, hi, splits, place, first_place, stride, 1)
        _send(told, 12, letters, turn)
        turn += 1
        # The next piece is asked for now, so that nobody waits for the answer.
        item = programs + gl.atomic_add(dealt, 1, sem="relaxed")
        table = block_tables + owner.to(gl.int64) * table_stride
        first, count = _tiles_of(lo, hi, BN, HAS_WINDOW)
        # In each step a tile's keys are asked for, what was asked for in the step before has come, and then there is
        # room for the values of the keys before.
        for step in range(count + 1):
            at = brought + step
            start = first + step * BN
            row = row_before
            if step < count:
                mbarrier.wait(k_is_empty.index(at % KS), (at // KS & 1) ^ 1)
                row = _rows_of(table, start, lo, hi, head * S, block_rows, each_key, S, HAS_WINDOW)
                _copy_from(k_tiles.index(at % KS), _numbers(k_pages, row, K, layout))
                if EIGHT_BITS:
                    _copy_from(v_stored.index(at % WS), _numbers(v_pages, row, K, layout))
            async_copy.commit_group()
            if step > 0:
                async_copy.wait_group(1)
                fence_async_shared()
                mbarrier.arrive(k_is_full.index((at - 1) % KS), count=1)
                if not EIGHT_BITS:  # noqa: SIM102 - known when the kernel is compiled
                    if step > 1:
                        mbarrier.arrive(v_is_full.index((at - 2) % VS), count=1)
                v_tile = v_tiles.index((at - 1) % VS)
                mbarrier.wait(v_is_empty.index((at - 1) % VS), ((at - 1) // VS & 1) ^ 1)
                if EIGHT_BITS:
                    v_tile.store(v_stored.index((at - 1) % WS).load(layout).to(gl.float16))
                    fence_async_shared()
                    mbarrier.arrive(v_is_full.index((at - 1) % VS), count=1)
                else:
                    _copy_from(v_tile, _numbers(v_pages, row_before, K, layout))
                    async_copy.commit_group()
            row_before = row
        brought += count
        if not EIGHT_BITS:
            async_copy.wait_group(0)
            fence_async_shared()
            mbarrier.arrive(v_is_full.index((brought - 1) % VS), count=1)
    _send((0,), 1, letters, turn)
    if gl.atomic_add(dealt + 1, 1, sem="relaxed") == programs - 1:
        gl.store(dealt, 0)
        gl.store(dealt + 1, 0)


@gluon.jit
def _plus(a, b):
    return a + b


# --- who multiplies --------------------------------------------------------------------------------------------------


@gluon.jit
def _receive(letters, turn):
    memory, is_full, is_empty = letters
    mbarrier.wait(is_full.index(turn % _LETTERS), turn // _LETTERS & 1)
    letter = memory.index(turn % _LETTERS).load(gl.BlockedLayout([1], [32], [gl.num_warps()], [0]))
    mbarrier.arrive(is_empty.index(turn % _LETTERS), count=1)
    return letter


@gluon.jit
def _packed(letter, half: gl.constexpr, layout: gl.constexpr):
    """Which of the row's packed queries are this half's."""
    return _field(letter, _TILE) * (2 * HALF) + half * HALF + gl.arange(0, HALF, layout)


@gluon.jit
def _load_queries(letter, half: gl.constexpr, q, q_stride, GROUP: gl.constexpr, K: gl.constexpr):
    """[HALF, K], 0 where there are none; of no piece all are."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [gl.num_warps(), 1], [1, 0])
    packed = _packed(letter, half, gl.SliceLayout(1, layout))
    column = gl.expand_dims(gl.arange(0, K, gl.SliceLayout(0, layout)), 0)
    token = packed // GROUP
    q_row = q + _field(letter, _FIRST_TOKEN).to(gl.int64) * q_stride
    q_at = token * q_stride + (_field(letter, _HEAD) * GROUP + packed % GROUP) * K
    is_there = gl.expand_dims(token < _field(letter, _TOKENS), 1)
    return gl.load(q_row + gl.expand_dims(q_at, 1) + column, mask=is_there, other=0.0)


@gluon.jit
def _score(q_tiles, half: gl.constexpr, keys, at, nothing, EIGHT_BITS: gl.constexpr, KS: gl.constexpr):
    """Begin to multiply the queries with a tile of keys. `nothing`: the scores' shape."""
    k_tiles, is_full = keys
    mbarrier.wait(is_full.index(at % KS), at // KS & 1)
    k_tile = k_tiles.index(at % KS).permute((1, 0))
    if EIGHT_BITS:
        scores = warpgroup_mma(q_tiles.index(2 * half), k_tile, nothing, use_acc=False, is_async=True)
        scores = warpgroup_mma(q_tiles.index(2 * half + 1), k_tile, scores, is_async=True)
    else:
        scores = warpgroup_mma(q_tiles.index(half), k_tile, nothing, use_acc=False, is_async=True)
    return scores


@gluon.jit
def _weigh(scores, start, seen, seen_by_all, scale, peak, mass, HAS_WINDOW: gl.constexpr):
    """(weights, fade, peak, mass) with these keys' scores: what was summed before them fades.

    `seen`: of each row the first key that it sees, and the last one; `seen_by_all`: as numbers. `scale`: of each row.
    """
    first_seen, last_seen = seen
    first_by_all, last_by_all = seen_by_all
    layout: gl.constexpr = scores.type.layout
    each_scale = gl.expand_dims(scale, 1)
    is_cut = start + scores.shape[1] > last_by_all + 1
    if HAS_WINDOW:
        is_cut |= start < first_by_all
    if is_cut:
        key = gl.expand_dims(start + gl.arange(0, scores.shape[1], gl.SliceLayout(0, layout)), 0)
        is_seen = key <= gl.expand_dims(last_seen, 1)
        if HAS_WINDOW:
            is_seen &= key >= gl.expand_dims(first_seen, 1)
        scores = gl.where(is_seen, scores, float("-inf"))
    new_peak = gl.maximum(peak, gl.max(scores, 1))
    base = gl.where(new_peak == float("-inf"), 0.0, new_peak)
    base *= scale
    weights = gl.exp2(scores * each_scale - gl.expand_dims(base, 1))
    fade = gl.exp2(peak * scale - base)
    return weights, fade, new_peak, mass * fade + gl.sum(weights, 1)


@gluon.jit
def _write(
    letter, half: gl.constexpr, out, quotients, first_column: gl.constexpr, G: gl.constexpr, GROUP: gl.constexpr,
    K: gl.constexpr,
):  # fmt: skip
    """Some columns of all rows."""
    layout: gl.constexpr = quotients.type.layout
    packed = _packed(letter, half, gl.SliceLayout(1, layout))
    column = gl.expand_dims(gl.arange(0, quotients.shape[1], gl.SliceLayout(0, layout)), 0) + first_column
    token = packed // GROUP
    out_row = out + _field(letter, _FIRST_TOKEN).to(gl.int64) * (G * GROUP * K)
    out_at = (token * (G * GROUP) + _field(letter, _HEAD) * GROUP + packed % GROUP) * K
    is_there = gl.expand_dims(token < _field(letter, _TOKENS), 1)
    gl.store(out_row + gl.expand_dims(out_at, 1) + column, quotients, mask=is_there)


@gluon.jit
def _quotients(acc, mass, dtype: gl.constexpr):
    """0 where nothing was seen."""
    return (acc * gl.expand_dims(1.0 / gl.where(mass == 0.0, 1.0, mass), 1)).to(dtype)


@gluon.jit
def _keep(partials, memory, half_acc, at, within, layout: gl.constexpr):
    """Half of the columns, through shared memory, so that lines are written and a few addresses do."""
    memory.store(half_acc)
    gl.store(partials + at + within, memory.load(layout))


@gluon.jit
def _finish(
    letter, half: gl.constexpr, out, partials, marks, arrivals, peak, mass, acc, memory, G: gl.constexpr,
    GROUP: gl.constexpr, K: gl.constexpr,
):  # fmt: skip
    """Write the quotients; of a piece among others, what it found, and the quotients of all if it is the last of them.

    `memory`: [HALF, K] of `out`'s numbers, to write lines from.
    """
    splits = _field(letter, _SPLITS)
    if splits == 1:
        memory.store(_quotients(acc, mass, out.dtype.element_ty))
        quotients = memory.load(gl.BlockedLayout([1, 8], [2, 16], [gl.num_warps(), 1], [1, 0]))
        _write(letter, half, out, quotients, 0, G, GROUP, K)
    else:
        layout: gl.constexpr = gl.BlockedLayout([1, 4], [2, 16], [gl.num_warps(), 1], [1, 0])
        of_rows: gl.constexpr = gl.SliceLayout(1, layout)
        each = gl.arange(0, HALF, of_rows)
        own = gl.arange(0, HALF, gl.SliceLayout(1, acc.type.layout))
        within = gl.expand_dims(each * K, 1) + gl.expand_dims(gl.arange(0, K // 2, gl.SliceLayout(0, layout)), 0)
        wide = _seen_as(memory, gl.float32, [HALF, K // 2], gl.NVMMASharedLayout(128, 32, 2))
        place = _field(letter, _PLACE) * 2 + half
        left, right = gl.split(gl.permute(gl.reshape(acc, [HALF, 2, K // 2]), (0, 2, 1)))
        _keep(partials, wide, left, place.to(gl.int64) * (HALF * K), within, layout)
        _keep(partials, wide, right, place.to(gl.int64) * (HALF * K) + K // 2, within, layout)
        gl.store(marks + place * (2 * HALF) + own, peak)
        gl.store(marks + place * (2 * HALF) + HALF + own, mass)
        _meet()
        first = _field(letter, _FIRST_PLACE)
        arrived = gl.atomic_add(arrivals + first * 2 + half, 1, sem="acq_rel")
        if arrived == splits - 1:
            gl.store(arrivals + first * 2 + half, 0)
            for side in gl.static_range(2):
                all_peak = gl.full([HALF], float("-inf"), gl.float32, of_rows)
                all_mass = gl.zeros([HALF], gl.float32, of_rows)
                total = gl.zeros([HALF, K // 2], gl.float32, layout)
                for split in range(splits):
                    place = (first + split * _field(letter, _STRIDE)) * 2 + half
                    part_at = partials + place.to(gl.int64) * (HALF * K) + side * (K // 2) + within
                    part_acc = gl.load(part_at, cache_modifier=".cg")
                    part_peak = gl.load(marks + place * (2 * HALF) + each, cache_modifier=".cg")
                    part_mass = gl.load(marks + place * (2 * HALF) + HALF + each, cache_modifier=".cg")
                    all_peak, all_mass, total = added(all_peak, all_mass, total, part_peak, part_mass, part_acc)
                quotients = _quotients(total, all_mass, out.dtype.element_ty)
                _write(letter, half, out, quotients, side * (K // 2), G, GROUP, K)


@gluon.jit
def _consume(
    half: gl.constexpr, q, q_stride, out, partials, marks, arrivals, scale, window, letters, queries, keys,
    k_is_empty, values, G: gl.constexpr, GROUP: gl.constexpr, K: gl.constexpr, BN: gl.constexpr,
    HAS_WINDOW: gl.constexpr, EIGHT_BITS: gl.constexpr, KS: gl.constexpr, VS: gl.constexpr,
):  # fmt: skip
    q_tiles, out_tiles = queries
    v_tiles, v_is_full, v_is_empty = values
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 32 if EIGHT_BITS else 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, K, 16])
    p_layout: gl.constexpr = gl.DotOperandLayout(0, o_layout, 2)
    of_scores: gl.constexpr = gl.SliceLayout(1, s_layout)
    of_sums: gl.constexpr = gl.SliceLayout(1, o_layout)
    dtype: gl.constexpr = v_tiles.dtype
    done = 0  # tiles
    turn = 0
    letter = _receive(letters, 0)
    q_tile = _load_queries(letter, half, q, q_stride, GROUP, K)
    while _field(letter, _IS_ONE) > 0:
        if EIGHT_BITS:
            q_first, q_rest, factor = in_two(q_tile)
            q_tiles.index(2 * half).store(q_first)
            q_tiles.index(2 * half + 1).store(q_rest)
            each_scale = gl.convert_layout(scale * factor, of_scores)
        else:
            q_tiles.index(half).store(q_tile)
            each_scale = gl.full([HALF], 0.0, gl.float32, of_scores) + scale
        fence_async_shared()
        lo, hi, tokens = _field(letter, _LO), _field(letter, _HI), _field(letter, _TOKENS)
        base = _field(letter, _TILE) * (2 * HALF) + half * HALF
        first_position = _field(letter, _CONTEXT) - tokens
        position = first_position + (base + gl.arange(0, HALF, of_scores)) // GROUP
        last_position = first_position + gl.minimum((base + HALF - 1) // GROUP, tokens - 1)
        seen = (gl.maximum(position - window + 1, lo), gl.minimum(position, hi - 1))
        seen_by_all = (gl.maximum(last_position - window + 1, lo), gl.minimum(first_position + base // GROUP, hi - 1))
        first, count = _tiles_of(lo, hi, BN, HAS_WINDOW)
        nothing = gl.zeros([HALF, BN], gl.float32, s_layout)
        peak = gl.full([HALF], float("-inf"), gl.float32, of_scores)
        mass = gl.zeros([HALF], gl.float32, of_scores)
        acc = gl.zeros([HALF, K], gl.float32, o_layout)
        scores = _score(q_tiles, half, keys, done, nothing, EIGHT_BITS, KS)
        scores = warpgroup_mma_wait(0, deps=(scores,))
        mbarrier.arrive(k_is_empty.index(done % KS), count=1)
        weights, fade, peak, mass = _weigh(scores, first, seen, seen_by_all, each_scale, peak, mass, HAS_WINDOW)
        p_tile = gl.convert_layout(weights.to(dtype), p_layout)
        for step in range(1, count):
            at = done + step
            before = at - 1
            scores = _score(q_tiles, half, keys, at, nothing, EIGHT_BITS, KS)
            mbarrier.wait(v_is_full.index(before % VS), before // VS & 1)
            sums = warpgroup_mma(p_tile, v_tiles.index(before % VS), acc, is_async=True)
            scores = warpgroup_mma_wait(1, deps=(scores,))
            mbarrier.arrive(k_is_empty.index(at % KS), count=1)
            start = first + step * BN
            weights, fade, peak, mass = _weigh(scores, start, seen, seen_by_all, each_scale, peak, mass, HAS_WINDOW)
            acc = warpgroup_mma_wait(0, deps=(sums,))
            mbarrier.arrive(v_is_empty.index(before % VS), count=1)
            acc = acc * gl.expand_dims(gl.convert_layout(fade, of_sums), 1)
            p_tile = gl.convert_layout(weights.to(dtype), p_layout)
        done += count
        turn += 1
        # The next piece's queries are asked for now, so that nobody waits for them.
        next_letter = _receive(letters, turn)
        q_tile = _load_queries(next_letter, half, q, q_stride, GROUP, K)
        last = done - 1
        mbarrier.wait(v_is_full.index(last % VS), last // VS & 1)
        acc = warpgroup_mma(p_tile, v_tiles.index(last % VS), acc)
        mbarrier.arrive(v_is_empty.index(last % VS), count=1)
        peak, mass = gl.convert_layout(peak * each_scale, of_sums), gl.convert_layout(mass, of_sums)
        _finish(letter, half, out, partials, marks, arrivals, peak, mass, acc, out_tiles.index(half), G, GROUP, K)
        letter = next_letter


@gluon.jit(do_not_specialize=["R", "least", "most"])
def warp_specialised_kernel(
    q, q_stride, k_pages, v_pages, block_rows, query_starts, context_lens, block_tables, table_stride, out, partials,
    marks, arrivals, dealt, R, least, most, window, least_split, scale, G: gl.constexpr, GROUP: gl.constexpr,
    K: gl.constexpr, BN: gl.constexpr, BLOCK_R: gl.constexpr, S: gl.constexpr, HAS_WINDOW: gl.constexpr,
    EIGHT_BITS: gl.constexpr, STEP: gl.constexpr, ROUNDS: gl.constexpr, KS: gl.constexpr,
    VS: gl.constexpr, WS: gl.constexpr, OVERLAPS: gl.constexpr, MULTIPLIES_IN: gl.constexpr, BRINGS_IN: gl.constexpr,
):  # fmt: skip
    """`block_rows`: how many rows of K numbers the pages of a block are away from the next one's.

    MULTIPLIES_IN, BRINGS_IN: so many registers a thread has that does. The rest as for `paged_attention_kernel`.
    """
    BITS: gl.constexpr = 8 if EIGHT_BITS else 16
    page: gl.constexpr = k_pages.dtype.element_ty
    wide: gl.constexpr = gl.float16 if EIGHT_BITS else page
    line_bytes: gl.constexpr = K * BITS // 8 if K * BITS // 8 < _LINE_BYTES else _LINE_BYTES
    lines: gl.constexpr = gl.NVMMASharedLayout(line_bytes, BITS, 2)
    wide_lines: gl.constexpr = gl.NVMMASharedLayout(_LINE_BYTES, 16, 2)
    k_tiles = gl.allocate_shared_memory(page, [KS, BN, K], lines)
    v_tiles = gl.allocate_shared_memory(wide, [VS, BN, K], wide_lines)
    if EIGHT_BITS:
        v_stored = gl.allocate_shared_memory(page, [WS, BN, K], lines)
        q_tiles = gl.allocate_shared_memory(page, [4, HALF, K], lines)
        out_tiles = _seen_as(q_tiles, out.dtype.element_ty, [2, HALF, K], wide_lines)
    else:
        v_stored = v_tiles
        q_tiles = gl.allocate_shared_memory(page, [2, HALF, K], lines)
        out_tiles = q_tiles
    letters = gl.allocate_shared_memory(gl.int32, [_LETTERS, _FIELDS], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    all_letters = (letters, _barriers(_LETTERS, 1), _barriers(_LETTERS, 2))
    k_is_full, k_is_empty = _barriers(KS, 1), _barriers(KS, 2)
    v_is_full, v_is_empty = _barriers(VS, 1), _barriers(VS, 2)
    if OVERLAPS:
        gdc_wait()
    queries, of_keys, of_values = (q_tiles, out_tiles), (k_tiles, k_is_full), (v_tiles, v_is_full, v_is_empty)
    all_values = (v_stored, v_tiles, v_is_full, v_is_empty)
    gl.warp_specialize(
        [
            (_consume, (
                0, q, q_stride, out, partials, marks, arrivals, scale, window, all_letters, queries, of_keys,
                k_is_empty, of_values, G, GROUP, K, BN, HAS_WINDOW, EIGHT_BITS, KS, VS,
            )),
            (_consume, (
                1, q, q_stride, out, partials, marks, arrivals, scale, window, all_letters, queries, of_keys,
                k_is_empty, of_values, G, GROUP, K, BN, HAS_WINDOW, EIGHT_BITS, KS, VS,
            )),
            (_produce, (
                k_pages, v_pages, block_rows, query_starts, context_lens, block_tables, table_stride, dealt, R, least,
                most, window, least_split, all_letters, (k_tiles, k_is_full, k_is_empty), all_values, G, GROUP, K, BN,
                BLOCK_R, S, HAS_WINDOW, EIGHT_BITS, STEP, ROUNDS, KS, VS, WS,
            )),
        ],
        [4, 4],
        [MULTIPLIES_IN, BRINGS_IN],
    )  # fmt: skip


def takes(q_THK: Tensor, k_pages_BGSK: Tensor, chip: Chip, window: int | None, softcap: float | None) -> bool:
    """Whether it is for these: on Hopper, whose tensor cores read shared memory by whole warp groups.

    Scores that are capped take longest themselves, and gain nothing.
    """
    head_dim = k_pages_BGSK.shape[3]
    in_halves = q_THK.dtype in (torch.bfloat16, torch.float16)
    has_pages = k_pages_BGSK.dtype in (q_THK.dtype, torch.float8_e4m3fn)
    fits = head_dim in _WIDTHS and k_pages_BGSK.stride(0) % head_dim == 0
    is_long = softcap is None and (window is None or window >= _LEAST_WINDOW)
    return chip.capability == (9, 0) and in_halves and has_pages and fits and is_long


def constants(pages_BGSK: Tensor) -> dict[str, Any]:
    """Those that the kernel is compiled for, by the pages alone, and how it is launched."""
    _, _, block_tokens, head_dim = pages_BGSK.shape
    places = dict(zip(("KS", "VS", "WS"), _PLACES[pages_BGSK.itemsize], strict=True))
    return {
        "K": head_dim, "BN": KEYS, "S": block_tokens, "EIGHT_BITS": pages_BGSK.itemsize == 1, "STEP": 16,
        "MULTIPLIES_IN": _MULTIPLIES_IN, "BRINGS_IN": _BRINGS_IN, "num_warps": 4, **places,
    }  # fmt: skip
