"""linear in C++ (kernels/native/linear.h): the weight is packed once into panels for the processor's vector units.

A row's result is the same to the bit whatever other rows are in the call and however many threads run.
"""

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight
from tradewind.kernels.linear.filling import Filling
from tradewind.kernels.memory import empty
from tradewind.kernels.native import DTYPE_CODES, Library

LAYOUT = "panels"
# Columns of a panel; the summed dimension is padded to an even length for bf16, whose pairs are multiplied at once.
PANEL = 32


class NativeLinear(Filling):
    """pack, linear, and the embedding of a model whose lm_head is its embedding."""

    def __init__(self, library: Library) -> None:
        self._pack = library.function("pack", "ipllpi")
        self._linear = library.function("linear", "iplllplpplplii")
        self._masked_logits = library.function("masked_logits", "iplllplpplpi")
        self._unpack_rows = library.function("unpack_rows", "iplpilpi")

    def pack(self, weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
        """See `tradewind.kernels.linear.Pack`. The result does not share the weight's storage."""
        assert weight_ND.is_contiguous()
        assert bias_N is None or (bias_N.is_contiguous() and bias_N.dtype == weight_ND.dtype)
        n, k = weight_ND.shape
        padded_k = k + k % 2 if weight_ND.dtype == torch.bfloat16 else k
        data = empty((-(-n // PANEL) * PANEL * padded_k,), weight_ND.dtype)
        threads = torch.get_num_threads()
        self._pack(DTYPE_CODES[weight_ND.dtype], weight_ND.data_ptr(), n, k, data.data_ptr(), threads)
        return LinearWeight(data, bias_N, n, k, LAYOUT)

    def _multiply(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, y_TN: Tensor) -> None:
        check(x_TD, weight, weight.data.dtype, y_TN)
        rows, k = x_TD.shape
        n, dtype, bias_N = weight.out_features, x_TD.dtype, weight.bias_N
        assert residual_TN is None or residual_TN.dtype == dtype
        self._linear(
            DTYPE_CODES[dtype], x_TD.data_ptr(), x_TD.stride(0), rows, k, weight.data.data_ptr(), n,
            None if bias_N is None else bias_N.data_ptr(), None if residual_TN is None else residual_TN.data_ptr(), n,
            y_TN.data_ptr(), n, y_TN.dtype == torch.float32, torch.get_num_threads(),
        )  # fmt: skip

    def masked_logits(self, x_RD: Tensor, weight: LinearWeight, bits_RW: Tensor, out_RV: Tensor) -> None:
        """See `tradewind.kernels.linear.MaskedLogits`. A panel that a row's mask forbids is not computed for it."""
        check_masked(x_RD, weight, weight.data.dtype, bits_RW, out_RV)
        rows, k = x_RD.shape
        n, dtype, bias_N = weight.out_features, x_RD.dtype, weight.bias_N
        self._masked_logits(
            DTYPE_CODES[dtype], x_RD.data_ptr(), x_RD.stride(0), rows, k, weight.data.data_ptr(), n,
            None if bias_N is None else bias_N.data_ptr(), bits_RW.data_ptr(), bits_RW.shape[1], out_RV.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip

    def embedding(self, ids_T: Tensor, weight: LinearWeight) -> Tensor:
        """The rows `ids_T` (int32 or int64, contiguous, in range) of a packed weight, as they were before packing."""
        assert ids_T.is_contiguous()
        assert ids_T.dtype in (torch.int32, torch.int64)
        x_TD = torch.empty((len(ids_T), weight.in_features), dtype=weight.data.dtype)
        self._unpack_rows(
            DTYPE_CODES[weight.data.dtype], weight.data.data_ptr(), weight.in_features, ids_T.data_ptr(),
            ids_T.dtype == torch.int64, len(ids_T), x_TD.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return x_TD


def check(x_TD: Tensor, weight: LinearWeight, dtype: torch.dtype, y_TN: Tensor) -> None:
    """That they fit each other, and are laid out as the kernels take them. `dtype`: of the weight's numbers."""
    rows, k = x_TD.shape
    assert k == weight.in_features, (k, weight.in_features)
    assert x_TD.dtype == dtype, (x_TD.dtype, dtype)
    assert x_TD.stride(1) == 1 or k == 1
    assert y_TN.shape == (rows, weight.out_features)
    assert y_TN.is_contiguous()


def check_masked(x_RD: Tensor, weight: LinearWeight, dtype: torch.dtype, bits_RW: Tensor, out_RV: Tensor) -> None:
    """The same of logits that a mask is applied to."""
    check(x_RD, weight, dtype, out_RV)
    assert out_RV.dtype == torch.float32
    assert bits_RW.dtype == torch.int32
    assert bits_RW.is_contiguous()
    assert len(bits_RW) == len(x_RD)
    assert bits_RW.shape[1] * PANEL >= weight.out_features, (bits_RW.shape, weight.out_features)


def kernel(library: Library) -> LinearKernel:
    """The op, as `tradewind.kernels.linear.choose` wants it."""
    native = NativeLinear(library)
    return LinearKernel(
        native.pack, native.linear, native.embedding, native.logits, native.fill_logits, native.masked_logits
    )
