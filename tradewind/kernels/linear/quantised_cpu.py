"""linear with 8- and 4-bit weights in C++ (kernels/native/quantised.h).

Products are summed as integers, so a row's result is the same to the bit whatever other rows are in the call and
however many threads run.
"""

import functools

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight
from tradewind.kernels.linear.filling import Filling
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.memory import empty
from tradewind.kernels.native import DTYPE_CODES, Library

PANEL = 32  # columns of a packed panel


class NativeQuantised(Filling):
    """pack, linear, and the embedding of a model whose lm_head is its embedding."""

    def __init__(self, library: Library, quantisation: Quantisation) -> None:
        self._bits, self._group = quantisation.bits, quantisation.group
        self._layout = quantisation.layout
        self._quantise = library.function("quantise", "iilpllpi")
        self._linear = library.function("quantised_linear", "iilplllplpplplii")
        self._dequantise_rows = library.function("dequantise_rows", "iilplpilpi")

    def packed_bytes(self, n: int, k: int) -> int:
        """Bytes of a packed weight, its scales included."""
        if self._bits == 8:
            panel_bytes = -(-k // 4) * PANEL * 4 + PANEL * 4
        else:
            panel_bytes = -(-k // self._group) * (self._group // 2 * PANEL + PANEL * 2)
        return -(-n // PANEL) * panel_bytes

    def pack(self, weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
        """See `tradewind.kernels.linear.Pack`."""
        assert weight_ND.is_contiguous()
        assert bias_N is None or (bias_N.is_contiguous() and bias_N.dtype == weight_ND.dtype)
        n, k = weight_ND.shape
        data = empty((self.packed_bytes(n, k),), torch.uint8)
        self._quantise(
            DTYPE_CODES[weight_ND.dtype], self._bits, self._group, weight_ND.data_ptr(), n, k, data.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return LinearWeight(data, bias_N, n, k, self._layout)

    def _multiply(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, y_TN: Tensor) -> None:
        rows, k = x_TD.shape
        n, dtype, bias_N = weight.out_features, x_TD.dtype, weight.bias_N
        assert (k, self._layout) == (weight.in_features, weight.layout), (k, weight.in_features, weight.layout)
        assert x_TD.stride(1) == 1 or k == 1
        assert y_TN.shape == (rows, n)
        assert y_TN.is_contiguous()
        assert residual_TN is None or residual_TN.dtype == dtype
        self._linear(
            DTYPE_CODES[dtype], self._bits, self._group, x_TD.data_ptr(), x_TD.stride(0), rows, k,
            weight.data.data_ptr(), n, None if bias_N is None else bias_N.data_ptr(),
            None if residual_TN is None else residual_TN.data_ptr(), n, y_TN.data_ptr(), n,
            y_TN.dtype == torch.float32, torch.get_num_threads(),
        )  # fmt: skip

    def rows(self, ids_T: Tensor, weight: LinearWeight, dtype: torch.dtype) -> Tensor:
        """The rows `ids_T` (int32 or int64, contiguous, in range) of a weight, as the numbers its bits stand for."""
        assert ids_T.is_contiguous()
        assert ids_T.dtype in (torch.int32, torch.int64)
        x_TD = torch.empty((len(ids_T), weight.in_features), dtype=dtype)
        self._dequantise_rows(
            DTYPE_CODES[dtype], self._bits, self._group, weight.data.data_ptr(), weight.in_features, ids_T.data_ptr(),
            ids_T.dtype == torch.int64, len(ids_T), x_TD.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return x_TD


def kernel(library: Library, quantisation: Quantisation, dtype: torch.dtype) -> LinearKernel:
    """The op, as `tradewind.kernels.linear.choose` wants it.

    With 8 bits the output layer serves as an embedding too; an embedding of 4 bits would harm all that follows,
    so with 4 bits it is kept beside the output layer.
    """
    native = NativeQuantised(library, quantisation)
    embedding = functools.partial(native.rows, dtype=dtype) if quantisation.bits == 8 else None
    return LinearKernel(native.pack, native.linear, embedding, native.logits, native.fill_logits)
