"""How what the pieces of a context have found comes together, in Triton.

Each piece is a program, and one more program adds up. That one need not be told that a piece is done: every number says
itself whether it has been written. So nobody has to wait until what it wrote is visible to all before it counts itself,
and what is added up need not be asked for anew once all have been counted.

Legend as in triton.py.
"""

import triton
from triton import language as tl

from tradewind.kernels.gpu.eight_bits import in_range

# Bits of what is not a number, and of no such number that arithmetic gives: it writes 0x7fffffff, and what is widened
# from 16 bits or fewer ends in zeros.
ABSENT = tl.constexpr(-940605)  # 0xfff1a5c3

_ROWS_AT_ONCE = 64  # so many rows of what pieces found are looked at at once, and so many pieces of small groups
_MOST_AT_ONCE = 16


def at_once(group_padded: int) -> int:
    """How many pieces are looked at at once: a thread has its numbers of all of them in registers."""
    return min(_MOST_AT_ONCE, _ROWS_AT_ONCE // group_padded)


def parts_of(group_padded: int, width: int, warps: int) -> int:
    """How many numbers of a piece are a thread's."""
    return max(1, group_padded * width // (32 * warps))


@triton.constexpr_function
def _look(pieces, parts, width, GP):
    """Assembly: a thread's numbers of some pieces and their marks; pieces of which any is ABSENT are looked at again.

    It gives `parts` numbers of each piece, which lie one after the other, and then the piece's mark, which is minus
    infinity where there is no such piece. It takes where the first piece's numbers are, and where its mark is, and how
    many pieces there are. All are on their way at once.
    """
    at, mark_at, count = (f"${pieces * (parts + 1) + place}" for place in range(3))
    together = min(parts, 4)
    begin, loads, checks = [f".reg .pred again, left<{pieces}>;"], [], []
    for piece in range(pieces):
        numbers = [f"${piece * (parts + 1) + part}" for part in range(parts + 1)]
        left = f"left{piece}"
        begin.append(f"setp.gt.s32 {left}, {count}, {piece};")
        begin += [f"mov.b32 {number}, 0;" for number in numbers[:parts]]
        begin.append(f"mov.b32 {numbers[parts]}, 0xff800000;")
        for part in range(0, parts, together):
            some = ", ".join(numbers[part : part + together])
            some, kind = (f"{{{some}}}", f".v{together}") if together > 1 else (some, "")
            place = f"[{at}+{4 * (piece * GP * width + part)}]"
            loads.append(f"@{left} ld.volatile.global{kind}.b32 {some}, {place};")
        loads.append(f"@{left} ld.volatile.global.b32 {numbers[parts]}, [{mark_at}+{4 * piece * GP}];")
        checks.append(f"setp.eq.s32 {left}, {numbers[parts]}, {ABSENT.value};")
        checks += [f"setp.eq.or.s32 {left}, {number}, {ABSENT.value}, {left};" for number in numbers[:parts]]
        checks.append(f"or.pred again, again, {left};")
    return "\n".join(["{", *begin, "LOOK:", *loads, "setp.ne.s32 again, 0, 0;", *checks, "@again bra LOOK;", "}"])


@triton.constexpr_function
def _operands(outputs):
    """Of that assembly: what it gives is written while what it takes is still needed."""
    return ",".join(["=&r"] * outputs + ["l", "l", "r"])


@triton.constexpr_function
def _floats(count):
    return (tl.float32,) * count


@triton.jit
def _seen(at, mark_at, pieces, GP: tl.constexpr, KP: tl.constexpr, AT_ONCE: tl.constexpr, PARTS: tl.constexpr,
          IN_TURN: tl.constexpr):  # fmt: skip
    """What `_look` gives of the pieces from here on, of each thread's place: AT_ONCE times PARTS numbers and a mark."""
    if IN_TURN:
        found = ()
        for each in tl.static_range(AT_ONCE):
            there = tl.zeros(at.shape, tl.int32) + each < pieces
            for part in tl.static_range(PARTS):
                number_at = at + each * (GP * KP) + part
                found += (tl.load(number_at, mask=there, other=0.0),)  # type: ignore[assignment]  # it grows
            found += (tl.load(mark_at + each * GP, mask=there, other=float("-inf")),)  # type: ignore[assignment]
    else:
        found = tl.inline_asm_elementwise(
            _look(AT_ONCE, PARTS, KP, GP), _operands(AT_ONCE * (PARTS + 1)), [at, mark_at, pieces],
            dtype=_floats(AT_ONCE * (PARTS + 1)), is_pure=False, pack=1,
        )  # fmt: skip
        tl.debug_barrier()  # many threads look at a mark, which must not be absent again before all have seen it
    return found


@triton.jit
def add_up(
    out, factor, partials, marks, pieces, GROUP: tl.constexpr, GP: tl.constexpr, K: tl.constexpr, KP: tl.constexpr,
    AT_ONCE: tl.constexpr, PARTS: tl.constexpr, IN_TURN: tl.constexpr,
):  # fmt: skip
    """Store what `pieces` found, weighted by their marks, in their order: `out` [GROUP, K].

    `partials` [pieces, GP, KP], `marks` [pieces, GP] float32, of which GROUP rows count: averages of values, and the
    logarithm, to base 2, of what they weigh. ABSENT until they are written, and when this is over. A thread has all
    numbers of PARTS places of a row, one after the other, and needs no other thread. IN_TURN: the pieces are done
    before this begins, as in Triton's interpreter. factor: None, or what all is multiplied by to be stored in 8 bits.
    Gives the sum of the squares of what it stores (0 if factor is None).
    """
    COLUMNS: tl.constexpr = KP // PARTS
    column, group = tl.arange(0, COLUMNS), tl.arange(0, GP)
    row = tl.minimum(group, GROUP - 1)
    at = partials + (row * KP)[:, None] + (column * PARTS)[None, :]
    mark_at = marks + row[:, None] + tl.zeros([1, COLUMNS], tl.int32)
    number, mark_number = tl.arange(0, AT_ONCE * GP * KP), tl.arange(0, AT_ONCE * GP)
    absent = tl.full([AT_ONCE * GP * KP], ABSENT, tl.int32).to(tl.float32, bitcast=True)
    absent_mark = tl.full([AT_ONCE * GP], ABSENT, tl.int32).to(tl.float32, bitcast=True)
    peak = tl.full([GP, COLUMNS], float("-inf"), tl.float32)
    weight = tl.zeros([GP, COLUMNS], tl.float32)
    sums = (weight,) * PARTS
    for first in range(0, pieces, AT_ONCE):
        left = pieces - first
        found = _seen(at + first * (GP * KP), mark_at + first * GP, left, GP, KP, AT_ONCE, PARTS, IN_TURN)
        new_peak = peak
        for each in tl.static_range(AT_ONCE):
            new_peak = tl.maximum(new_peak, found[each * (PARTS + 1) + PARTS])
        fade = tl.exp2(peak - new_peak)
        peak, weight = new_peak, weight * fade
        new_sums = ()
        for part in tl.static_range(PARTS):
            new_sums += (sums[part] * fade,)  # type: ignore[assignment]  # it grows
        sums = new_sums
        for each in tl.static_range(AT_ONCE):
            share = tl.exp2(found[each * (PARTS + 1) + PARTS] - peak)
            weight += share
            new_sums = ()
            for part in tl.static_range(PARTS):
                new_sums += (sums[part] + found[each * (PARTS + 1) + part] * share,)  # type: ignore[assignment]
            sums = new_sums
    squares = tl.zeros([GP, COLUMNS], tl.float32)
    for part in tl.static_range(PARTS):
        inside = (group < GROUP)[:, None] & (column * PARTS + part < K)[None, :]
        if factor is None:
            result = sums[part] / weight
        else:
            result = in_range(sums[part] * (factor / weight))
            squares += tl.where(inside, result * result, 0.0)
        at = out + (group * K + part)[:, None] + (column * PARTS)[None, :]
        tl.store(at, result.to(out.dtype.element_ty), mask=inside)
    for first in range(0, pieces, AT_ONCE):
        left = pieces - first
        tl.store(partials + first * (GP * KP) + number, absent, mask=number < left * (GP * KP))
        tl.store(marks + first * GP + mark_number, absent_mark, mask=mark_number < left * GP)
    return tl.sum(tl.sum(squares, 1), 0)
