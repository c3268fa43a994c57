"""linear with bfloat16 weights that are kept in 12 bits without loss: the layout for GPUs, and the torch version.

Of a bfloat16's 8 bits of exponent the weights of an output use few: nearly all lie within 16 neighbouring exponents. So
a weight is its sign, its 7 bits of mantissa, and 4 bits that count from the least of the 16, which each output has for
itself. What lies outside is kept beside it, as it was: an exception. So the numbers are those of the checkpoint.

The inputs are cut into four parts of equal length, as in int4.py. A row of `data` is three planes of 16-bit words, and
word j of plane p holds the j-th weight of part p where a bfloat16 has it: sign, (four bits), 4 of exponent, mantissa.
The four bits that are left in the three planes are the j-th weight of the fourth part: its exponent; its mantissa but
for the last three bits; its sign and those three. In place of an exception stands `PLACEHOLDER`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight, reference

LAYOUT = "lossless"
PARTS, PLANES = 4, 3
STEP = 8  # a part's length is a multiple of it: 16 bytes
# What the exponent of words is counted from once they are read, and what a word without a bit is then.
EXPONENT = 112
PLACEHOLDER = 2.0 ** (EXPONENT - 127)
# So many exceptions of an output have their place; a weight with more of them in any stays as it is.
COUNTS = (8, 16, 32)
_MOST_INPUTS = 1 << 16  # an exception's column has 16 bits
_ROWS_AT_ONCE = 1024  # packing takes 64-bit copies


def pack(weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
    """See `tradewind.kernels.linear.Pack`. `data`: int16 [N, PLANES, part].

    `extras`: what a word's number is multiplied by, a power of two, or 0 where all of an output's weights are, float32
    [N]; and exceptions, int32 [N, E], each the column in the upper 16 bits and the number in the lower. A place that is
    not needed holds column 0 and what a placeholder stands for. The layout is "dense" where there are too many of them,
    or where the filling of short rows would take more than is saved.
    """
    assert weight_ND.dtype == torch.bfloat16
    outputs, inputs = weight_ND.shape
    part = -(-inputs // (PARTS * STEP)) * STEP
    data = torch.empty((outputs, PLANES, part), dtype=torch.int16, device=weight_ND.device)
    scales_N = torch.empty(outputs, dtype=torch.float32, device=weight_ND.device)
    exceptions = []
    for first in range(0, outputs, _ROWS_AT_ONCE):
        some = slice(first, min(first + _ROWS_AT_ONCE, outputs))
        data[some], scales_N[some], rows_of_some = _encode(weight_ND[some], part)
        exceptions.append(rows_of_some)
    slots = max((found.shape[1] for found in exceptions), default=0)
    count = next((count for count in COUNTS if count >= slots), 0)
    exceptions_NE = _placeholders(scales_N).repeat(1, count)
    is_smaller = data.nbytes + scales_N.nbytes + exceptions_NE.nbytes < weight_ND.nbytes
    if not count or inputs > _MOST_INPUTS or not is_smaller:
        return reference.pack(weight_ND, bias_N)
    at = 0
    for found in exceptions:
        here = exceptions_NE[at : at + len(found), : found.shape[1]]
        here.copy_(torch.where(found == _NONE, here, found))
        at += len(found)
    return LinearWeight(data, bias_N, outputs, inputs, LAYOUT, (scales_N, exceptions_NE))


def pack_beside(weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
    """See `tradewind.kernels.linear.Pack`. The weight as it is, and as its copy for one row what `pack` makes of it.

    There is no copy where `pack` would leave it as it is.
    """
    copy = pack(weight_ND, bias_N)
    return replace(reference.pack(weight_ND, bias_N), one_row_copy=copy if copy.layout == LAYOUT else None)


def _placeholders(scales_N: Tensor) -> Tensor:
    """What stands in place of exceptions: the bits of a bfloat16, int32 [N, 1]."""
    return (scales_N * PLACEHOLDER).view(torch.int32).unsqueeze(1) >> 16


_NONE = -1  # no weight is that NaN in the last of 65,536 columns


def _encode(weight_ND: Tensor, part: int) -> tuple[Tensor, Tensor, Tensor]:
    """Words [N, PLANES, part], scales [N], exceptions [N, as many as there are in one output], filled up with _NONE."""
    outputs, inputs = weight_ND.shape
    bits_ND = weight_ND.view(torch.int16).int() & 0xFFFF
    exponents_ND = bits_ND >> 7 & 0xFF
    least_N1 = _least_exponents(exponents_ND)
    counted_ND = exponents_ND - least_N1
    is_empty_N1 = (bits_ND == 0).all(1, keepdim=True)
    is_exception_ND = ((counted_ND < 0) | (counted_ND > 15)) & ~is_empty_N1
    words_ND = torch.where((counted_ND < 0) | (counted_ND > 15), 0, bits_ND & 0x807F | counted_ND << 7)
    words_NPK = torch.nn.functional.pad(words_ND, (0, PARTS * part - inputs)).view(outputs, PARTS, part)
    last_NK = words_NPK[:, 3]
    left = (last_NK >> 7 & 15, last_NK >> 3 & 15, last_NK >> 12 & 8 | last_NK & 7)
    data = words_NPK[:, :PLANES] | torch.stack(left, 1) << 11
    scales_N1 = torch.where(is_empty_N1, 0.0, torch.exp2((least_N1 - EXPONENT).float()))
    return data.to(torch.int16), scales_N1.squeeze(1), _listed(bits_ND, is_exception_ND)


def _least_exponents(exponents_ND: Tensor) -> Tensor:
    """The least of the 16 that hold most of an output's weights, [N, 1].

    Neither 0 nor 255 is among them: what has those is no normal number.
    """
    counts_NX = torch.zeros((len(exponents_ND), 256), dtype=torch.int32, device=exponents_ND.device)
    counts_NX.scatter_add_(1, exponents_ND.long(), torch.ones_like(exponents_ND))
    below_NX = counts_NX.cumsum(1)
    return (below_NX[:, 16:-1] - below_NX[:, :-17]).argmax(1, keepdim=True).int() + 1


def _listed(bits_ND: Tensor, is_exception_ND: Tensor) -> Tensor:
    row, column = is_exception_ND.nonzero(as_tuple=True)
    counts_N = is_exception_ND.sum(1)
    found = torch.full((len(bits_ND), int(counts_N.max())), _NONE, dtype=torch.int32, device=bits_ND.device)
    place = torch.arange(len(row), device=row.device) - (counts_N.cumsum(0) - counts_N)[row]
    found[row, place] = (column << 16 | bits_ND[row, column]).to(torch.int32)
    return found


def linear(x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """See `tradewind.kernels.linear.Linear`."""
    return product(x_TD, weight, residual_TN).to(x_TD.dtype)


def product(x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """The same, not rounded: float32."""
    return reference.product(x_TD.float(), dense(weight).float(), weight, residual_TN)


def dense(weight: LinearWeight) -> Tensor:
    """The weight as it was, bfloat16 [N, D]."""
    if weight.layout == reference.LAYOUT:
        return weight.data
    scales_N, exceptions_NE = weight.extras
    words = weight.data.int()
    left = words >> 11 & 15
    last = left[:, :1] << 7 | left[:, 1:2] << 3 | left[:, 2:] & 7 | (left[:, 2:] & 8) << 12
    bits_ND = torch.cat((words & 0x87FF, last), 1).flatten(1)[:, : weight.in_features] | EXPONENT << 7
    values_ND = bits_ND.to(torch.int16).view(torch.bfloat16) * scales_N.bfloat16().unsqueeze(1)
    row, place = (exceptions_NE != _placeholders(scales_N)).nonzero(as_tuple=True)
    found = exceptions_NE[row, place]
    values_ND[row, found >> 16 & 0xFFFF] = found.to(torch.int16).view(torch.bfloat16)
    return values_ND


def kernel() -> LinearKernel:
    """The op, as `tradewind.kernels.linear.choose` wants it. The embedding stays as it is, beside."""
    return LinearKernel(pack, linear, logits=product)
