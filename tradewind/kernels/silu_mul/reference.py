"""silu_mul in plain torch: the truth."""

from torch import Tensor
from torch.nn import functional


def silu_mul(gate_up_T2F: Tensor) -> Tensor:
    """See `tradewind.kernels.silu_mul.SiluMul`."""
    gate_TF, up_TF = gate_up_T2F.float().chunk(2, dim=-1)
    return (functional.silu(gate_TF) * up_TF).to(gate_up_T2F.dtype)
