"""linear: y = x @ W.T (+ bias) (+ residual), the weight in whatever layout the implementation packed it into."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tradewind.base.errors import ConfigError
from tradewind.kernels.choice import Candidate, Choice, Device, pick

if TYPE_CHECKING:
    from tradewind.kernels.linear.quantisation import Quantisation


@dataclass(frozen=True)
class LinearWeight:
    """A weight as one implementation wants it; only the `linear` that goes with its `pack` can read it.

    `data`: the weight. In the layout "dense" it is weight_ND itself. `bias_N`: always plain, or None.
    `extras`: further tensors of the layout, such as scales. `one_row_copy`: the same numbers and bias in another layout
    that one row is multiplied by faster; for an implementation that packs weights twice.
    """

    data: Tensor
    bias_N: Tensor | None
    out_features: int
    in_features: int
    layout: str = "dense"
    extras: tuple[Tensor, ...] = ()
    one_row_copy: "LinearWeight | None" = None

    @property
    def nbytes(self) -> int:
        """With the copy."""
        tensors = (self.data, *self.extras, *(() if self.bias_N is None else (self.bias_N,)))
        own_bytes: int = sum(tensor.nbytes for tensor in tensors)
        return own_bytes + self.copy_bytes

    @property
    def copy_bytes(self) -> int:
        """Of the copy alone, whose bias is this weight's; 0 if there is none."""
        copy = self.one_row_copy
        return 0 if copy is None else sum(tensor.nbytes for tensor in (copy.data, *copy.extras))

    def for_rows(self, rows: int) -> "LinearWeight":
        """What so many rows are multiplied by: the copy, if there is one and it is one row, else the weight itself."""
        return self.one_row_copy if rows == 1 and self.one_row_copy is not None else self


class Pack(Protocol):
    """`pack(weight_ND, bias_N)`: done once, at load.

    weight_ND: contiguous, in the model's dtype. bias_N: contiguous, same dtype, or None. The result may share their
    storage, and the caller does not write to them afterwards; a caller that drops them leaves one copy alive.
    """

    def __call__(self, weight_ND: Tensor, bias_N: Tensor | None) -> LinearWeight: ...


class Linear(Protocol):
    """`linear(x_TD, weight, residual_TN=None) -> y_TN`, by position.

    y = x @ W.T + bias + residual, accumulated in float32 and rounded once to x's dtype. If the weight is quantised, so
    may be each row of x: by itself, to 8 bits and one scale (or one for every 128 columns). x_TD: in_features wide,
    rows may be strided; where the weight is in 8-bit floats with one scale an output, they may also come quantised
    already (QuantisedRows). residual_TN: same dtype as x; the caller gives it up, the result may be written into it.
    """

    def __call__(self, x: Any, weight: LinearWeight, residual_TN: Tensor | None = None, /) -> Tensor: ...


class Logits(Protocol):
    """`logits(x_RD, weight) -> y_RV`: `linear` without a residual, in float32 and not rounded to x's dtype."""

    def __call__(self, x: Any, weight: LinearWeight, /) -> Tensor: ...


class FillLogits(Protocol):
    """`fill_logits(x_RD, weight, out_RV)`: what `logits` gives, into memory that is used again. out_RV: contiguous."""

    def __call__(self, x: Any, weight: LinearWeight, out_RV: Tensor, /) -> None: ...


class MaskedLogits(Protocol):
    """`masked_logits(x_RD, weight, bits_RW, out_RV)`: `fill_logits`, and -inf for what a row may not choose.

    bits_RW (int32, contiguous): token t of a row is allowed if bit t % 32 of its word t // 32 is set; bits beyond V
    mean nothing. What is allowed is what `logits` gives, to the bit; what is not need not be computed. R is at least 1.
    """

    def __call__(self, x: Any, weight: LinearWeight, bits_RW: Tensor, out_RV: Tensor, /) -> None: ...


class PackedEmbedding(Protocol):
    """`embedding(ids_T, weight) -> x_TD`: rows of a packed weight as they were before packing (quantised: nearly).

    A model whose output layer is its embedding needs only the packed copy then. ids_T: int32 or int64, contiguous, each
    in [0, out_features).
    """

    def __call__(self, ids_T: Tensor, weight: LinearWeight) -> Tensor: ...


@dataclass(frozen=True)
class LinearKernel:
    """An implementation of linear: the parts go together.

    `embedding` is None where the packed weight must not serve as one: the embedding is kept beside it. `logits` is None
    where `linear`, widened, has to do, `fill_logits` where results are always new tensors, `masked_logits` where masks
    spare nothing.
    """

    pack: Pack
    linear: Linear
    embedding: PackedEmbedding | None = None
    logits: Logits | None = None
    fill_logits: FillLogits | None = None
    masked_logits: MaskedLogits | None = None


def choose(
    device: Device,
    dtype: torch.dtype,
    prefer: str | None = None,
    level: str | None = None,
    quantisation: "Quantisation | None" = None,
    *,
    exact: bool = False,
    one_row_copy: bool = False,
) -> Choice[LinearKernel]:
    """The implementation for activations of `dtype` on `device`, with weights quantised or (None) as they are.

    `exact`: a row's result does not depend on how many others there are (the CPU's never does). `one_row_copy`: on a
    GPU, bfloat16 weights that stay as they are have a copy in 12 bits for one row; not with `exact`.
    `prefer` as in `tradewind.kernels.choice.pick`; `level`: an instruction set, as in `tradewind.kernels.native.load`.
    """
    if quantisation is not None and quantisation.is_lossless:
        return _choose_lossless(device, dtype, prefer, level, quantisation, exact=exact)
    if quantisation is not None and quantisation.is_float:
        return _choose_fp8(device, dtype, prefer, quantisation, exact)
    if quantisation is not None and device.type == "cuda":
        return _choose_int4_gpu(device, dtype, prefer, quantisation, exact)
    if quantisation is not None:
        return _choose_quantised(device, dtype, prefer, level, quantisation)
    from tradewind.kernels import gpu, native
    from tradewind.kernels.linear import cpu, lossless, reference, torch_linear
    from tradewind.kernels.linear.tactics import Tactics

    def triton(chip: gpu.Chip) -> LinearKernel:
        from tradewind.kernels.linear.gpu import GpuLinear

        return GpuLinear(chip, Tactics.on(chip), exact=exact).kernel(one_row_copy=one_row_copy)

    about = f" for few rows ({_measured(device)}), else cuBLAS"
    if one_row_copy:
        about += f"; for one row a copy of bfloat16 in 12 bits ({_measured(device, lossless.LAYOUT)})"
    library = native.load(level)
    by_torch = LinearKernel(torch_linear.pack, torch_linear.linear)
    plain = LinearKernel(reference.pack, reference.linear)
    candidates = [
        *gpu.candidates(device, dtype, triton, plain, about=about),
        Candidate("native", cpu.kernel(library), library.unavailable, f"C++, {library.level}"),
        Candidate("torch", by_torch, about="torch's matrix product (oneDNN or cuBLAS)"),
        Candidate("reference", plain),
    ]
    return pick(candidates, device, dtype, prefer)


def _choose_quantised(
    device: Device, dtype: torch.dtype, prefer: str | None, level: str | None, quantisation: "Quantisation"
) -> Choice[LinearKernel]:
    from tradewind.kernels import native
    from tradewind.kernels.linear import quantised_cpu
    from tradewind.kernels.linear.quantisation import TorchQuantised

    library = native.load(level)
    candidates = [
        Candidate(
            "native",
            quantised_cpu.kernel(library, quantisation, dtype),
            library.unavailable,
            f"C++, {library.level}, {quantisation.layout}",
        ),
        Candidate("reference", TorchQuantised(quantisation).kernel(), about=quantisation.layout),
    ]
    return pick(candidates, device, dtype, prefer)


def _choose_int4_gpu(
    device: Device, dtype: torch.dtype, prefer: str | None, quantisation: "Quantisation", exact: bool
) -> Choice[LinearKernel]:
    from tradewind.kernels import gpu
    from tradewind.kernels.linear.int4 import Int4
    from tradewind.kernels.linear.tactics import Tactics

    if quantisation.bits != 4:
        raise ConfigError("--quantization int8 is for CPUs; use fp8 on a GPU", field="quantization")

    def triton(chip: gpu.Chip) -> LinearKernel:
        from tradewind.kernels.linear.gpu import quantised

        return quantised(chip, Tactics.on(chip), quantisation, exact=exact)

    reference = Int4(quantisation.group).kernel()
    about = f", {quantisation.layout}, widened in registers ({_measured(device)}), in memory for many rows"
    candidates = [
        *gpu.candidates(device, dtype, triton, reference, needs_halves=True, about=about),
        Candidate("reference", reference, about=quantisation.layout),
    ]
    return pick(candidates, device, dtype, prefer)


def _choose_lossless(
    device: Device,
    dtype: torch.dtype,
    prefer: str | None,
    level: str | None,
    quantisation: "Quantisation",
    *,
    exact: bool,
) -> Choice[LinearKernel]:
    from tradewind.kernels import gpu, native
    from tradewind.kernels.linear import lossless, lossless_cpu
    from tradewind.kernels.linear.tactics import Tactics

    if dtype != torch.bfloat16:
        raise ConfigError(
            "--quantization lossless is for weights in bfloat16: use --dtype bfloat16, or none", field="quantization"
        )

    def triton(chip: gpu.Chip) -> LinearKernel:
        from tradewind.kernels.linear.gpu import quantised

        return quantised(chip, Tactics.on(chip), quantisation, exact=exact)

    measured, library = _measured(device, lossless.LAYOUT), native.load(level)
    about = f", bfloat16 in 12 bits, restored in registers ({measured}), in memory for many rows"
    on_cpu = f"C++, {library.level}, bfloat16 in 12 bits, restored as it is multiplied"
    candidates = [
        *gpu.candidates(device, dtype, triton, lossless.kernel(), about=about),
        Candidate("native", lossless_cpu.kernel(library), library.unavailable, on_cpu),
        Candidate("reference", lossless.kernel(), about="bfloat16 in 12 bits"),
    ]
    return pick(candidates, device, dtype, prefer)


def _choose_fp8(
    device: Device, dtype: torch.dtype, prefer: str | None, quantisation: "Quantisation", exact: bool
) -> Choice[LinearKernel]:
    from tradewind.kernels import gpu
    from tradewind.kernels.linear import fp8, fp8_blocks, stored
    from tradewind.kernels.linear.tactics import Tactics

    def triton(chip: gpu.Chip) -> LinearKernel:
        from tradewind.kernels.linear.gpu import quantised

        return quantised(chip, Tactics.on(chip), quantisation, exact=exact)

    has_blocks = quantisation.group > 0
    reference = fp8_blocks.kernel() if has_blocks else fp8.kernel()
    if quantisation.stored:
        reference = stored.in_torch()
    kind = "8-bit floats, a scale for 128 x 128" if has_blocks else "8-bit floats"
    vendor = "with rows quantised too" if has_blocks else "cuBLAS"
    about = f", {kind}, for few rows ({_measured(device)}), else {vendor}"
    candidates = [
        *gpu.candidates(device, dtype, triton, reference, needs_fp8=True, needs_halves=has_blocks, about=about),
        Candidate("reference", reference, about=kind),
    ]
    return pick(candidates, device, dtype, prefer)


def _measured(device: Device, layout: str = "") -> str:
    """Where the tactics come from that a GPU is given; nothing for what is none."""
    from tradewind.kernels import gpu
    from tradewind.kernels.linear.tactics import Tactics

    return Tactics.on(gpu.Chip.of(device)).about_layout(layout) if device.type == "cuda" else ""
