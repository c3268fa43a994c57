"""linear on a GPU: Triton's kernels of few rows where reading the weights is all, the vendor's product elsewhere."""

import torch
from torch import Tensor
from torch.nn import functional

from tradewind.kernels.fused_linear.triton import Extras, fused_linear
from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import LinearKernel, LinearWeight, blocks, fp8, fp8_blocks, int4, lossless, reference
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear.stored import StoredLinear
from tradewind.kernels.linear.tactics import FusedTactic, Tactic, Tactics
from tradewind.kernels.linear.triton import few_rows, is_exact, quantise
from tradewind.kernels.quantised_rows import Activations, NormedRows, QuantisedRows

# For rows that no measured tactic is for, or whose sums must be in the order of all others (see few_rows).
OF_ANY_SHAPE = Tactic(64, 64, 4, 3, rows_first=True)
# For more than so many rows of weights of so many bits, where the vendor's product would sum in another order.
OF_MANY = (
    (64, 16, Tactic(128, 64, 8, 4, rows_first=True)),
    (64, 8, Tactic(128, 128, 8, 4, rows_first=True)),
    (1024, 8, Tactic(256, 128, 8, 3, rows_first=True)),
)
_EXACT_FUSED = FusedTactic(64, 64, 64, 4, 3)

# Up to so many rows the weights' bytes count more than the arithmetic: rows are not worth quantising for 8-bit weights,
# and weights of 4 or 12 bits not worth being widened in memory.
_FEW_FOR_FP8, _FEW_FOR_BLOCKS, _FEW_FOR_INT4, _FEW_FOR_LOSSLESS = 1, 16, 256, 128


class GpuLinear:
    """Dense weights, which may have a copy in 12 bits for one row.

    `exact`: a row's result does not depend on how many others there are; it costs speed.
    """

    def __init__(self, chip: Chip, tactics: Tactics, *, exact: bool = False) -> None:
        self._chip = chip
        self._tactics = tactics
        self._exact = exact

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        own = weight.for_rows(len(x_TD))
        if own is not weight:
            return self.fused(x_TD, own, residual_TN, x_TD.dtype)
        tactic = self._tactic(x_TD, weight)
        if tactic is not None:
            return few_rows(x_TD, weight, residual_TN, x_TD.dtype, tactic, self._chip)
        y_TN = functional.linear(x_TD, weight.data, weight.bias_N)
        return y_TN if residual_TN is None else y_TN.add_(residual_TN)

    def logits(self, x_RD: Tensor, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        own = weight.for_rows(len(x_RD))
        if own is not weight:
            return self.fused(x_RD, own, None, torch.float32)
        tactic = self._tactic(x_RD, weight)
        if tactic is not None:
            return few_rows(x_RD, weight, None, torch.float32, tactic, self._chip)
        return _wide(x_RD, weight)

    def fused(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype) -> Tensor:
        """y_TN of a weight in 12 bits, which is restored in registers."""
        tactic = _find_fused(self._tactics, len(x_TD), weight)
        return fused_linear(x_TD, weight, Extras(residual_TN=residual_TN), tactic, self._chip, out_dtype)

    def _tactic(self, x_TD: Tensor, weight: LinearWeight) -> Tactic | None:
        if self._exact:
            return find_exact(self._tactics, len(x_TD), weight)
        return None if x_TD.dtype == torch.float32 else _find(self._tactics, len(x_TD), weight)

    def kernel(self, *, one_row_copy: bool = False) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it. `one_row_copy`: see there."""
        assert not (one_row_copy and self._exact), "one row is summed in another order by the copy"
        pack = lossless.pack_beside if one_row_copy else reference.pack
        return LinearKernel(pack, self.linear, logits=self.logits)


class GpuFp8Linear:
    """8-bit weights, as in fp8.py. A few rows in 16 bits are multiplied as they are, more of them quantised."""

    def __init__(self, chip: Chip, tactics: Tactics, *, exact: bool = False) -> None:
        self._chip = chip
        self._tactics = tactics
        self._exact = exact

    def linear(self, x: Activations, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        return self._product(x, weight, residual_TN, x.dtype)

    def logits(self, x: Activations, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        return self._product(x, weight, None, torch.float32).float()

    def _product(
        self, x: Activations, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype
    ) -> Tensor:
        if isinstance(x, Tensor) and x.itemsize == 2 and len(x) <= _FEW_FOR_FP8 and not self._exact:
            tactic = _find_fused(self._tactics, len(x), weight)
            return fused_linear(x, weight, Extras(residual_TN=residual_TN), tactic, self._chip, out_dtype)
        rows = x if isinstance(x, QuantisedRows) else quantise(x, self._chip)
        return self._product_of_quantised(rows, weight, residual_TN, out_dtype)

    def _product_of_quantised(
        self, rows: QuantisedRows, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype
    ) -> Tensor:
        find = find_exact if self._exact else _find
        tactic = find(self._tactics, rows.shape[0], weight)
        if tactic is None and (weight.in_features % 16 or weight.out_features % 16):
            tactic = OF_ANY_SHAPE  # cuBLAS takes multiples of 16 only
        if tactic is not None:
            return few_rows(rows, weight, residual_TN, out_dtype, tactic, self._chip)
        assert not isinstance(rows, NormedRows), "the vendor's product leaves their root out"
        if out_dtype == torch.float32 and residual_TN is None and self._chip.has_float32_product:
            return fp8.by_vendor(rows, weight, out_dtype)
        y_TN = fp8.by_vendor(rows, weight).to(rows.dtype)
        return y_TN if residual_TN is None else y_TN.add_(residual_TN)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(fp8.pack, self.linear, logits=self.logits)


class GpuFp8BlocksLinear:
    """8-bit weights with a scale for each block, as in fp8_blocks.py; the rows are in 16 bits."""

    def __init__(self, chip: Chip, tactics: Tactics, *, exact: bool = False) -> None:
        self._chip = chip
        self._tactics = tactics
        self._exact = exact

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        return self._product(x_TD, weight, residual_TN, x_TD.dtype)

    def logits(self, x_RD: Tensor, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        return self._product(x_RD, weight, None, torch.float32)

    def _product(
        self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype
    ) -> Tensor:
        if len(x_TD) > _FEW_FOR_BLOCKS and not self._exact:
            y_TN = blocks.by_vendor(x_TD, weight, self._chip)
            if y_TN is not None:
                y_TN = y_TN.to(out_dtype)
                return y_TN if residual_TN is None else y_TN.add_(residual_TN)
            return blocks.blocks_product(x_TD, weight, residual_TN, out_dtype, self._chip)
        tactic = _EXACT_FUSED if self._exact else _find_fused(self._tactics, len(x_TD), weight)
        return fused_linear(x_TD, weight, Extras(residual_TN=residual_TN), tactic, self._chip, out_dtype)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(fp8_blocks.pack, self.linear, logits=self.logits)


class GpuInt4Linear:
    """4-bit weights, as in int4.py; the rows are in 16 bits."""

    def __init__(self, chip: Chip, tactics: Tactics, group: int, *, exact: bool = False) -> None:
        self._chip = chip
        self._tactics = tactics
        self._pack = int4.Int4(group).pack
        self._exact = exact

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        return self._product(x_TD, weight, residual_TN, x_TD.dtype)

    def logits(self, x_RD: Tensor, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        return self._product(x_RD, weight, None, torch.float32).float()

    def _product(
        self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None, out_dtype: torch.dtype
    ) -> Tensor:
        if len(x_TD) > _FEW_FOR_INT4 and not self._exact:
            y_TN = functional.linear(x_TD, blocks.widen(weight, x_TD.dtype, self._chip), weight.bias_N)
            return y_TN if residual_TN is None else y_TN.add_(residual_TN)
        tactic = _EXACT_FUSED if self._exact else _find_fused(self._tactics, len(x_TD), weight)
        return fused_linear(x_TD, weight, Extras(residual_TN=residual_TN), tactic, self._chip, out_dtype)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(self._pack, self.linear, logits=self.logits)


class GpuLosslessLinear:
    """bfloat16 weights in 12 bits, as in lossless.py, beside those that stay as they are."""

    def __init__(self, chip: Chip, tactics: Tactics, *, exact: bool = False) -> None:
        self._chip = chip
        self._exact = exact
        self._plain = GpuLinear(chip, tactics, exact=exact)

    def linear(self, x_TD: Tensor, weight: LinearWeight, residual_TN: Tensor | None = None) -> Tensor:
        """See `tradewind.kernels.linear.Linear`."""
        if self._fuses(x_TD, weight):
            return self._plain.fused(x_TD, weight, residual_TN, x_TD.dtype)
        return self._plain.linear(x_TD, self._restored(weight), residual_TN)

    def logits(self, x_RD: Tensor, weight: LinearWeight) -> Tensor:
        """See `tradewind.kernels.linear.Logits`."""
        if self._fuses(x_RD, weight):
            return self._plain.fused(x_RD, weight, None, torch.float32)
        return self._plain.logits(x_RD, self._restored(weight))

    def _fuses(self, x_TD: Tensor, weight: LinearWeight) -> bool:
        return weight.layout == lossless.LAYOUT and len(x_TD) <= _FEW_FOR_LOSSLESS and not self._exact

    def _restored(self, weight: LinearWeight) -> LinearWeight:
        if weight.layout == reference.LAYOUT:
            return weight
        return reference.pack(blocks.restore(weight, self._chip), weight.bias_N)

    def kernel(self) -> LinearKernel:
        """The op, as `tradewind.kernels.linear.choose` wants it."""
        return LinearKernel(lossless.pack, self.linear, logits=self.logits)


def quantised(chip: Chip, tactics: Tactics, quantisation: Quantisation, *, exact: bool) -> LinearKernel:
    """The op for weights of 4 or 12 bits, or of 8-bit floats."""
    if quantisation.stored:
        by_layout = {
            reference.LAYOUT: GpuLinear(chip, tactics, exact=exact).kernel(),
            fp8.LAYOUT: GpuFp8Linear(chip, tactics, exact=exact).kernel(),
            fp8_blocks.LAYOUT: GpuFp8BlocksLinear(chip, tactics, exact=exact).kernel(),
        }
        return StoredLinear(by_layout).kernel()
    if quantisation.is_lossless:
        return GpuLosslessLinear(chip, tactics, exact=exact).kernel()
    if not quantisation.is_float:
        return GpuInt4Linear(chip, tactics, quantisation.group, exact=exact).kernel()
    if quantisation.group:
        return GpuFp8BlocksLinear(chip, tactics, exact=exact).kernel()
    return GpuFp8Linear(chip, tactics, exact=exact).kernel()


def _wide(x_RD: Tensor, weight: LinearWeight) -> Tensor:
    """The vendor's product in float32, which is not rounded to the rows' type on its way.

    On a CPU, in Triton's interpreter, torch has no such product.
    """
    if x_RD.dtype == torch.float32 or not x_RD.is_cuda:
        return functional.linear(x_RD, weight.data, weight.bias_N).float()
    y_RN = torch.mm(x_RD, weight.data.t(), out_dtype=torch.float32)
    return y_RN if weight.bias_N is None else y_RN.add_(weight.bias_N)


def _find(tactics: Tactics, rows: int, weight: LinearWeight) -> Tactic | None:
    return tactics.find(8 * weight.data.itemsize, rows, weight.out_features, weight.in_features)


def find_exact(tactics: Tactics, rows: int, weight: LinearWeight) -> Tactic:
    """Of those whose sums are the same for every number of rows."""
    bits = 8 * weight.data.itemsize
    for_many = [tactic for more_than, width, tactic in OF_MANY if width == bits and rows > more_than]
    if for_many:
        return for_many[-1]
    tactic = _find(tactics, rows, weight)
    return tactic if tactic is not None and is_exact(tactic, bits) else OF_ANY_SHAPE


def _find_fused(tactics: Tactics, rows: int, weight: LinearWeight) -> FusedTactic:
    return tactics.find_fused(weight.layout, rows, weight.out_features, weight.in_features)
