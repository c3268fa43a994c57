"""Parts of Triton kernels that read weights in any layout: see the layouts in tradewind.kernels.linear."""

import triton
from triton import language as tl


@triton.constexpr_function
def unpack_pairs(part, is_bfloat16):
    """Assembly: a 4-bit number of each of two words (linear/int4.py), as two of 16 bits.

    In the low bits of 128 (or 1024) they count up from there.
    """
    one, least, less = ("3f80", "4300", "c308") if is_bfloat16 else ("3c00", "6400", "e408")
    kind = "bf16x2" if is_bfloat16 else "f16x2"
    return f"""{{
        .reg .b32 bits, one, less;
        mov.b32 one, 0x{one}{one};
        mov.b32 less, 0x{less}{less};
        shr.u32 bits, $1, {4 * part};
        lop3.b32 bits, bits, 0x000f000f, 0x{least}{least}, 0xea;
        fma.rn.{kind} $0, bits, one, less;
    }}"""


@triton.constexpr_function
def _restore(part, is_wide):
    """Assembly: bfloat16 numbers, or float32, of one part out of words of the planes. See linear/lossless.py."""
    first = 2 if is_wide else 1
    if part < 3:
        joined = f"lop3.b32 bits, ${first}, 0x87ff87ff, 0x38003800, 0xea;"
    else:
        left = ((first, "shr", 4, 0x0780), (first + 1, "shr", 8, 0x0078), (first + 2, "shr", 11, 0x0007))
        joined = "mov.b32 bits, 0x38003800;"
        for plane, shift, by, mask in (*left, (first + 2, "shl", 1, 0x8000)):
            joined += f"{shift}.b32 some, ${plane}, {by}; lop3.b32 bits, some, 0x{mask:04x}{mask:04x}, bits, 0xea;"
    spread = "shl.b32 $0, bits, 16; and.b32 $1, bits, 0xffff0000;" if is_wide else "mov.b32 $0, bits;"
    return f"{{ .reg .b32 bits, some; {joined} {spread} }}"


@triton.jit
def load_weights(at, k, output, N, inner, WIDTH, PLANES: tl.constexpr, EVEN: tl.constexpr):
    """A tile of weights as they are stored, from column k on, of each plane. EVEN: all of it is there."""
    inside = (output < N)[:, None] & (inner + k < WIDTH)[None, :]
    planes = ()
    for plane in tl.static_range(PLANES):
        plane_at = at + plane * WIDTH + k
        if EVEN:
            raw = tl.load(plane_at, eviction_policy="evict_first")
        else:
            raw = tl.load(plane_at, mask=inside, other=0.0)
        planes += (raw,)  # type: ignore[assignment]  # it grows while the kernel is compiled
    return planes


@triton.jit
def numbers(planes, like, PART: tl.constexpr, PARTS: tl.constexpr, PLANES: tl.constexpr, IN_PAIRS: tl.constexpr):
    """A tile of weights as numbers of the type of `like`, without their scale."""
    raw = planes[0]
    if PLANES == 3:
        tile = _restored(planes, like, PART, IN_PAIRS)
    elif PARTS > 1:
        if not IN_PAIRS:
            tile = ((raw >> (4 * PART)) & 15).to(like.dtype) - 8
        elif like.dtype == tl.bfloat16:
            tile = tl.inline_asm_elementwise(
                unpack_pairs(PART, True), "=r,r", [raw], dtype=tl.bfloat16, is_pure=True, pack=2
            )
        else:
            tile = tl.inline_asm_elementwise(
                unpack_pairs(PART, False), "=r,r", [raw], dtype=tl.float16, is_pure=True, pack=2
            ).to(like.dtype)
    elif raw.dtype == like.dtype:
        tile = raw
    elif raw.dtype == tl.float8e4nv:
        # In two steps each is one instruction for two numbers; straight to bfloat16 takes a slow one for each.
        tile = raw.to(tl.float16).to(tl.float32).to(like.dtype)
    else:
        tile = raw.to(like.dtype)
    return tile


@triton.jit
def _restored(planes, like, PART: tl.constexpr, IN_PAIRS: tl.constexpr):
    IS_WIDE: tl.constexpr = like.dtype == tl.float32
    if not IN_PAIRS:
        if PART == 3:
            left = (planes[0] >> 4) & 0x0780 | (planes[1] >> 8) & 0x0078 | (planes[2] >> 11) & 7
            bits = left | (planes[2] & 0x4000) * 2
        else:
            bits = planes[PART] & -0x7801
        tile = (bits | 0x3800).to(tl.int16).to(tl.bfloat16, bitcast=True).to(like.dtype)
    elif PART == 3:
        tile = tl.inline_asm_elementwise(
            _restore(PART, IS_WIDE), "=r,=r,r,r,r" if IS_WIDE else "=r,r,r,r", [planes[0], planes[1], planes[2]],
            dtype=like.dtype, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        tile = tl.inline_asm_elementwise(
            _restore(PART, IS_WIDE), "=r,=r,r" if IS_WIDE else "=r,r", [planes[PART]],
            dtype=like.dtype, is_pure=True, pack=2,
        )  # fmt: skip
    return tile


@triton.jit
def placeholder(scale):
    """What stands in place of an exception, as `tradewind.kernels.linear.lossless.PLACEHOLDER` says."""
    return scale * 0.000030517578125


@triton.jit
def exception_at(slots_at, output, N):
    """Columns of exceptions, and their numbers."""
    slot = tl.load(slots_at, mask=output < N, other=0)
    return (slot >> 16) & 0xFFFF, (slot << 16).to(tl.float32, bitcast=True)
