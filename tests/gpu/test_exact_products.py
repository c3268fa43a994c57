"""Products whose sums must be the same for every number of rows: by every tactic that may be chosen, to the bit."""

import pytest
import torch

from tradewind.kernels.gpu import Chip
from tradewind.kernels.linear import fp8, reference
from tradewind.kernels.linear.gpu import OF_ANY_SHAPE, OF_MANY
from tradewind.kernels.linear.tactics import Tactics
from tradewind.kernels.linear.triton import few_rows, is_exact, quantise
from tradewind.kernels.quantised_rows import QuantisedRows

CUDA = torch.device("cuda", 0)
BITS = [16] + [8] * (torch.cuda.get_device_capability() >= (8, 9))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(("outputs", "inputs"), [(6144, 4096), (512, 14336), (1024, 208)])
def test_all_exact_tactics_give_the_same_bits(bits: int, outputs: int, inputs: int) -> None:
    chip = Chip.of(CUDA)
    generator = torch.Generator(CUDA).manual_seed(bits)
    x_TD = torch.randn(300, inputs, device=CUDA, generator=generator)
    x_TD = (x_TD * torch.rand(300, 1, device=CUDA, generator=generator)).bfloat16()
    w_ND = (torch.randn(outputs, inputs, device=CUDA, generator=generator) * inputs**-0.5).bfloat16()
    weight = fp8.pack(w_ND, None) if bits == 8 else reference.pack(w_ND, None)
    quantised = quantise(x_TD, chip)

    def product(tokens: int, tactic: object) -> torch.Tensor:
        of = QuantisedRows(quantised.values_TD[:tokens], quantised.scales_T1[:tokens], quantised.dtype)
        return few_rows(of if bits == 8 else x_TD[:tokens], weight, None, torch.float32, tactic, chip)

    truth = product(300, OF_ANY_SHAPE)
    fitting = {entry.tactic: entry.rows for entry in Tactics.on(chip).entries if entry.bits == bits}
    fitting = {tactic: rows for tactic, rows in fitting.items() if is_exact(tactic, bits)}
    for_many = {tactic: 300 for _, width, tactic in OF_MANY if width == bits}
    for tactic, most in {**fitting, **for_many, OF_ANY_SHAPE: 300}.items():
        for tokens in (1, 5, 16, 17, 64, 300):
            if tokens <= most:
                assert torch.equal(product(tokens, tactic), truth[:tokens]), (tactic, tokens)
