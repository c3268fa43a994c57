"""linear with weights in 8-bit floats, quantised while loading: the layout and the torch version, which is the truth.

A weight is e4m3 with one float32 scale for each output; the rows of x are quantised when they are multiplied, or come
quantised already, each with its own scale. So y[t, n] = (sum of products of 8-bit numbers) * scale[t] * scale[n].
"""

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight, reference
from tradewind.kernels.quantised_rows import FP8, Activations, QuantisedRows, quantise_rows

LAYOUT = "fp8"
_ROWS_AT_ONCE = 8192  # of a weight: quantising takes float32 copies
_LEAST = 1e-30  # by which all can be divided
_ROUNDED = 1.15  # times as large as it was a number may be once it was rounded to 8 bits (1/16 at most), and once more


def pack(weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
    """See `tradewind.kernels.linear.Pack`. `data`: float8_e4m3fn [N, D]; `extras`: the scales, float32 [N]."""
    outputs, inputs = weight_ND.shape
    values_ND = torch.empty((outputs, inputs), dtype=FP8, device=weight_ND.device)
    scales_N = torch.empty(outputs, dtype=torch.float32, device=weight_ND.device)
    for first in range(0, outputs, _ROWS_AT_ONCE):
        part = quantise_rows(weight_ND[first : first + _ROWS_AT_ONCE])
        values_ND[first : first + _ROWS_AT_ONCE] = part.values_TD
        scales_N[first : first + _ROWS_AT_ONCE] = part.scales_T1.squeeze(1)
    return LinearWeight(values_ND, bias_N, outputs, inputs, LAYOUT, (scales_N,))


def linear(x: Activations, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """See `tradewind.kernels.linear.Linear`."""
    return product(x, weight, residual_TN).to(x.dtype)


def product(x: Activations, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
    """The same, not rounded: float32."""
    rows = x if isinstance(x, QuantisedRows) else quantise_rows(x)
    return reference.product(rows.dense(), dense(weight), weight, residual_TN)


def dense(weight: LinearWeight) -> Tensor:
    """The weight's numbers, float32 [N, D]."""
    return weight.data.float() * weight.extras[0].unsqueeze(1)


def largest_of_normed(weight: LinearWeight, gain_D: Tensor, last: int) -> float:
    """No number of the `last` outputs is larger, rounded to 8 bits or not, whatever the row: if it comes from a norm
    with that gain, which makes it sqrt(D) long. By the inequality of Cauchy and Schwarz.
    """
    weight_ND = weight.data[-last:].float() * weight.extras[0][-last:].unsqueeze(1) * gain_D.float()
    largest_N = weight_ND.norm(dim=1) * weight.in_features**0.5
    if weight.bias_N is not None:
        largest_N += weight.bias_N[-last:].float().abs()
    return max(_LEAST, _ROUNDED * float(largest_N.max()))


def longest(weight: LinearWeight) -> float:
    """The root of the sum of its weights' squares, of the output where that is largest."""
    firsts = range(0, weight.out_features, _ROWS_AT_ONCE)
    parts = [(weight.data[first : first + _ROWS_AT_ONCE], weight.extras[0][first:]) for first in firsts]
    lengths = [(part_ND.float().norm(dim=1) * scales_N[: len(part_ND)]).max() for part_ND, scales_N in parts]
    return float(torch.stack(lengths).max())


def by_vendor(rows: QuantisedRows, weight: LinearWeight, out_dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The product by cuBLAS. Both sizes of the weight must be multiples of 16, and rows have one scale.

    `out_dtype`: bfloat16; or float32, where a chip `has_float32_product`.
    """
    is_wide = out_dtype == torch.float32
    y_TN = torch._scaled_mm(
        rows.values_TD,
        weight.data.t(),
        scale_a=rows.scales_T1,
        scale_b=weight.extras[0].unsqueeze(0),
        bias=None if is_wide else weight.bias_N,
        out_dtype=out_dtype,
        use_fast_accum=True,
    )
    return y_TN.add_(weight.bias_N) if is_wide and weight.bias_N is not None else y_TN


def kernel() -> LinearKernel:
    """The op, as `tradewind.kernels.linear.choose` wants it. An embedding of 3 bits of mantissa is kept as it is."""
    return LinearKernel(pack, linear, logits=product)
