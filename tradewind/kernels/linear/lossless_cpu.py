"""linear with bfloat16 weights in 12 bits in C++ (kernels/native/lossless.h): what cpu.py gives, to the bit."""

import torch
from torch import Tensor

from tradewind.kernels.linear import LinearKernel, LinearWeight
from tradewind.kernels.linear.cpu import PANEL, NativeLinear, check, check_masked
from tradewind.kernels.memory import empty
from tradewind.kernels.native import Library

LAYOUT = "lossless-panels"
_EXCEPTION_BYTES = 8


class NativeLossless(NativeLinear):
    """pack, linear, and the embedding of a model whose lm_head is its embedding.

    A weight that would not be smaller, because too many of its numbers lie outside of 16 exponents, is cpu.py's.
    """

    def __init__(self, library: Library) -> None:
        super().__init__(library)
        self._count = library.function("lossless_count", "pllpi")
        self._pack_lossless = library.function("lossless_pack", "pllpi")
        self._linear_lossless = library.function("lossless_linear", "plllplpplplii")
        self._masked_lossless = library.function("lossless_masked_logits", "plllplpplpi")
        self._rows = library.function("lossless_rows", "pllpilpi")

    def pack(self, weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight:
        """See `tradewind.kernels.linear.Pack`. `data`: bytes, as lossless.h has them."""
        assert weight_ND.dtype == torch.bfloat16
        assert weight_ND.is_contiguous()
        n, k = weight_ND.shape
        panels, threads = -(-n // PANEL), torch.get_num_threads()
        before = torch.zeros(panels + 1, dtype=torch.int64)
        self._count(weight_ND.data_ptr(), n, k, before.data_ptr(), threads)
        before = before.cumsum(0)
        nbytes = _panels_at(panels) + panels * _panel_bytes(k) + _EXCEPTION_BYTES * int(before[-1])
        if nbytes >= panels * PANEL * k * weight_ND.itemsize:
            return super().pack(weight_ND, bias_N)
        data = empty((nbytes,), torch.uint8)
        data[: before.nbytes] = before.view(torch.uint8)
        self._pack_lossless(weight_ND.data_ptr(), n, k, data.data_ptr(), threads)
        return LinearWeight(data, bias_N, n, k, LAYOUT)

    def _multiply(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, y_TN: Tensor) -> None:
        if weight.layout != LAYOUT:
            super()._multiply(x_TD, weight, residual_TN, y_TN)
            return
        check(x_TD, weight, torch.bfloat16, y_TN)
        rows, k = x_TD.shape
        n, bias_N = weight.out_features, weight.bias_N
        assert residual_TN is None or residual_TN.dtype == x_TD.dtype
        self._linear_lossless(
            x_TD.data_ptr(), x_TD.stride(0), rows, k, weight.data.data_ptr(), n,
            None if bias_N is None else bias_N.data_ptr(), None if residual_TN is None else residual_TN.data_ptr(), n,
            y_TN.data_ptr(), n, y_TN.dtype == torch.float32, torch.get_num_threads(),
        )  # fmt: skip

    def masked_logits(self, x_RD: Tensor, weight: LinearWeight, bits_RW: Tensor, out_RV: Tensor) -> None:
        """See `tradewind.kernels.linear.MaskedLogits`. A panel that a row's mask forbids is not computed for it."""
        if weight.layout != LAYOUT:
            super().masked_logits(x_RD, weight, bits_RW, out_RV)
            return
        check_masked(x_RD, weight, torch.bfloat16, bits_RW, out_RV)
        rows, k = x_RD.shape
        bias_N = weight.bias_N
        self._masked_lossless(
            x_RD.data_ptr(), x_RD.stride(0), rows, k, weight.data.data_ptr(), weight.out_features,
            None if bias_N is None else bias_N.data_ptr(), bits_RW.data_ptr(), bits_RW.shape[1], out_RV.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip

    def embedding(self, ids_T: Tensor, weight: LinearWeight) -> Tensor:
        """The rows `ids_T` (int32 or int64, contiguous, in range) of a packed weight, as they were before packing."""
        if weight.layout != LAYOUT:
            return super().embedding(ids_T, weight)
        assert ids_T.is_contiguous()
        assert ids_T.dtype in (torch.int32, torch.int64)
        x_TD = torch.empty((len(ids_T), weight.in_features), dtype=torch.bfloat16)
        self._rows(
            weight.data.data_ptr(), weight.out_features, weight.in_features, ids_T.data_ptr(),
            ids_T.dtype == torch.int64, len(ids_T), x_TD.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return x_TD


def _panels_at(panels: int) -> int:
    """Bytes of the table before the panels."""
    return -(-(panels + 1) * 8 // 64) * 64


def _panel_bytes(k: int) -> int:
    """Of its columns' exponents, and for each 4 of k three planes of 32 words of 16 bits."""
    return 2 * (2 * PANEL + -(-k // 4) * 3 * PANEL)


def kernel(library: Library) -> LinearKernel:
    """The op, as `tradewind.kernels.linear.choose` wants it."""
    native = NativeLossless(library)
    return LinearKernel(
        native.pack, native.linear, native.embedding, native.logits, native.fill_logits, native.masked_logits
    )
