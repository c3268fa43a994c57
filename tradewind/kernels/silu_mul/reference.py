"""silu_mul in plain torch: the truth."""

from torch import Tensor
from torch.nn import functional

from tradewind.kernels.quantised_rows import QuantisedRows, quantise_rows


def silu_mul(gate_up_T2F: Tensor) -> Tensor:
    """See `tradewind.kernels.silu_mul.SiluMul`."""
    return _wide(gate_up_T2F).to(gate_up_T2F.dtype)


def quantising_silu_mul(gate_up_T2F: Tensor) -> QuantisedRows:
    """See `tradewind.kernels.silu_mul.QuantisingSiluMul`."""
    return quantise_rows(_wide(gate_up_T2F), gate_up_T2F.dtype)


def _wide(gate_up_T2F: Tensor) -> Tensor:
    gate_TF, up_TF = gate_up_T2F.float().chunk(2, dim=-1)
    return functional.silu(gate_TF) * up_TF
