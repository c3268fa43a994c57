"""fused_linear of a single row, in Triton: nothing is shared between programs, and the tensor cores are not used.

With one row a product of two numbers for each weight is all there is to compute. Then what counts is that many small
programs keep many loads in flight: each thread multiplies what it has loaded, and threads meet only at the end.

Legend as in tradewind.kernels.fused_linear.triton; BK inputs at a time, VEC of them in one load of a thread.
"""

import triton
from triton import language as tl

from tradewind.kernels.fused_linear.decoding import exception_at, load_weights, numbers, placeholder
from tradewind.kernels.gpu.order import begin, release


@triton.jit
def _add(
    acc, raw, x_tile, scales_at, inside,
    PART: tl.constexpr, PARTS: tl.constexpr, PLANES: tl.constexpr, IN_PAIRS: tl.constexpr, GROUPED: tl.constexpr,
    VEC: tl.constexpr,
):  # fmt: skip
    """acc plus the products of a tile, summed up by VEC neighbours: those of one thread."""
    products = numbers(raw, x_tile, PART, PARTS, PLANES, IN_PAIRS) * x_tile[None, :]
    sums = tl.sum(tl.reshape(products, [products.shape[0], products.shape[1] // VEC, VEC]), 2)
    if GROUPED:
        sums *= tl.load(scales_at, mask=inside, other=0.0).to(tl.float32)
    return acc + sums


@triton.jit
def _step(
    acc, up_acc, squares, raw, up_raw, k, x, gain, scales_at, up_scales_at, scale_stride_k, output, inner, N, D, WIDTH,
    PARTS: tl.constexpr, PLANES: tl.constexpr, GROUP: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr,
    IN_PAIRS: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """What the tiles from column k on add."""
    chunk = tl.arange(0, inner.shape[0] // VEC) * VEC
    for part in tl.static_range(PARTS):
        first = part * WIDTH + k
        there = (inner + k < WIDTH) & (inner + first < D)
        x_tile = tl.load(x + inner + first, mask=there, other=0.0).to(tl.float32)
        if NORMED:
            squares += x_tile * x_tile
            x_tile *= tl.load(gain + inner + first, mask=there, other=0.0).to(tl.float32)
        inside = (output < N)[:, None] & (chunk + k < WIDTH)[None, :]
        group = ((first + chunk) // GROUP * scale_stride_k if GROUP else chunk)[None, :]
        acc = _add(acc, raw, x_tile, scales_at[:, None] + group, inside, part, PARTS, PLANES, IN_PAIRS, GROUP > 0, VEC)
        if GATED:
            up_acc = _add(
                up_acc, up_raw, x_tile, up_scales_at[:, None] + group, inside, part, PARTS, PLANES, IN_PAIRS,
                GROUP > 0, VEC,
            )  # fmt: skip
    return acc, up_acc, squares


@triton.jit
def _at(columns, x, gain, NORMED: tl.constexpr):
    """Of the row, some columns."""
    some = tl.load(x + columns).to(tl.float32)
    if NORMED:
        some *= tl.load(gain + columns).to(tl.float32)
    return some


@triton.jit
def vector_kernel(
    x, gain, w, scales, scale_stride_n, scale_stride_k, exceptions, bias, residual, y, N, D, WIDTH, eps,
    PARTS: tl.constexpr, PLANES: tl.constexpr, EXCEPTIONS: tl.constexpr,
    GROUP: tl.constexpr, SPAN: tl.constexpr, SCALED: tl.constexpr,
    NORMED: tl.constexpr, GATED: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    EVEN: tl.constexpr, IN_PAIRS: tl.constexpr, OVERLAPS: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """Program i: outputs [i * BN, ...). The rest as for `fused_linear_kernel`."""
    output = tl.program_id(0) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    acc = tl.zeros([BN, BK // VEC], tl.float32)
    up_acc = tl.zeros([BN, BK // VEC], tl.float32)
    squares = tl.zeros([BK], tl.float32)
    w_at = w + output.to(tl.int64)[:, None] * (PLANES * WIDTH) + inner[None, :]
    up_at = w_at + N.to(tl.int64) * (PLANES * WIDTH)
    if SCALED:
        scales_at = scales + output // SPAN * scale_stride_n
        up_scales_at = scales + (N + output) // SPAN * scale_stride_n
    else:
        scales_at = output
        up_scales_at = output
    # Weights are never written: the first are on their way before this kernel may look at what others wrote.
    raw = load_weights(w_at, 0, output, N, inner, WIDTH, PLANES, EVEN)
    up_raw = load_weights(up_at, 0, output, N, inner, WIDTH, PLANES, EVEN) if GATED else raw
    if SCALED and GROUP == 0:  # so are their scales, which would be waited for at the end
        scale = tl.load(scales_at, mask=output < N, other=0.0)
        up_scale = tl.load(up_scales_at, mask=output < N, other=0.0) if GATED else scale
    if EXCEPTIONS:
        slots_at = exceptions + output[:, None] * EXCEPTIONS + tl.arange(0, EXCEPTIONS)[None, :]
        columns, values = exception_at(slots_at, output[:, None], N)
        if GATED:
            up_columns, up_values = exception_at(slots_at + N * EXCEPTIONS, output[:, None], N)
    # 4-bit weights keep the processors busy themselves: programs that wait would only be in their way.
    release(OVERLAPS and (PARTS == 1 or PLANES == 3))
    begin(OVERLAPS)
    if HAS_RESIDUAL:  # asked for beside the row, not once the sums are there
        rest = tl.load(residual + output, mask=output < N, other=0.0).to(tl.float32)
    acc, up_acc, squares = _step(
        acc, up_acc, squares, raw, up_raw, 0, x, gain, scales_at, up_scales_at, scale_stride_k, output, inner, N, D,
        WIDTH, PARTS, PLANES, GROUP, NORMED, GATED, IN_PAIRS, VEC,
    )  # fmt: skip
    for k in range(BK, WIDTH, BK):
        raw = load_weights(w_at, k, output, N, inner, WIDTH, PLANES, EVEN)
        up_raw = load_weights(up_at, k, output, N, inner, WIDTH, PLANES, EVEN) if GATED else raw
        acc, up_acc, squares = _step(
            acc, up_acc, squares, raw, up_raw, k, x, gain, scales_at, up_scales_at, scale_stride_k, output, inner, N, D,
            WIDTH, PARTS, PLANES, GROUP, NORMED, GATED, IN_PAIRS, VEC,
        )  # fmt: skip
    total = tl.sum(acc, 1)
    up_total = tl.sum(up_acc, 1)
    if SCALED and GROUP == 0:
        total *= scale
        if GATED:
            up_total *= up_scale
    if EXCEPTIONS:
        total += tl.sum(_at(columns, x, gain, NORMED) * (values - placeholder(scale)[:, None]), 1)
        if GATED:
            up_total += tl.sum(_at(up_columns, x, gain, NORMED) * (up_values - placeholder(up_scale)[:, None]), 1)
    if NORMED:
        root = 1.0 / tl.sqrt(tl.sum(squares, 0) / D + eps)
        total *= root
        up_total *= root
    if HAS_BIAS:
        total += tl.load(bias + output, mask=output < N, other=0.0).to(tl.float32)
        if GATED:
            up_total += tl.load(bias + N + output, mask=output < N, other=0.0).to(tl.float32)
    if GATED:
        total = total / (1.0 + tl.exp(-total)) * up_total
    if HAS_RESIDUAL:
        total += rest
    tl.store(y + output, total.to(y.dtype.element_ty), mask=output < N)
