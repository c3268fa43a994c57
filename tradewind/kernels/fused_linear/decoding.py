"""Parts of Triton kernels that read weights in any layout: see the layouts in tradewind.kernels.linear."""

import triton
from triton import language as tl


@triton.constexpr_function
def _unpack(part, is_bfloat16):
    """Assembly: two 4-bit numbers out of two of 16 bits. In the low bits of 128 (or 1024) they count up from there."""
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


@triton.jit
def load_weights(at, k, output, N, inner, WIDTH, EVEN: tl.constexpr):
    """A tile of weights as they are stored, from column k on. EVEN: all of it is there."""
    if EVEN:
        raw = tl.load(at + k, eviction_policy="evict_first")
    else:
        raw = tl.load(at + k, mask=(output < N)[:, None] & (inner + k < WIDTH)[None, :], other=0.0)
    return raw


@triton.jit
def numbers(raw, like, PART: tl.constexpr, PARTS: tl.constexpr, IN_PAIRS: tl.constexpr):
    """A tile of weights as numbers of the type of `like`, without their scale."""
    if PARTS > 1:
        if not IN_PAIRS:
            tile = ((raw >> (4 * PART)) & 15).to(like.dtype) - 8
        elif like.dtype == tl.bfloat16:
            tile = tl.inline_asm_elementwise(
                _unpack(PART, True), "=r,r", [raw], dtype=tl.bfloat16, is_pure=True, pack=2
            )
        else:
            tile = tl.inline_asm_elementwise(
                _unpack(PART, False), "=r,r", [raw], dtype=tl.float16, is_pure=True, pack=2
            ).to(like.dtype)
    elif raw.dtype == like.dtype:
        tile = raw
    elif raw.dtype == tl.float8e4nv:
        # In two steps each is one instruction for two numbers; straight to bfloat16 takes a slow one for each.
        tile = raw.to(tl.float16).to(tl.float32).to(like.dtype)
    else:
        tile = raw.to(like.dtype)
    return tile
