"""Every kernel on the GPU against plain arithmetic in float64."""

import torch

from tradewind.bench import gpu_gate


def test_all_kernels() -> None:
    failed = [check for check in gpu_gate.checks(torch.device("cuda", 0)) if not check.passed]
    assert not failed
