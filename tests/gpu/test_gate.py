"""Every kernel on the GPU against plain arithmetic in float64."""

import torch

from tradewind.bench import gpu_gate
from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.runner.machine import usable_cpus

CUDA = torch.device("cuda", 0)


def test_all_kernels() -> None:
    """None is compiled by its launch: a rehearsal knows all of them."""
    ready = ReadyKernels(usable_cpus())
    ready.watch()
    ready.prepare(lambda: list(gpu_gate.checks(CUDA)))
    before = ready.count
    failed = [check for check in gpu_gate.checks(CUDA) if not check.passed]
    assert not failed
    assert ready.count == before
