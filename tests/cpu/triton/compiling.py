"""Launches kernels of the product as on a GPU that is not there; prints what Triton did, as JSON. A program of a test.

Started without Triton's interpreter, with an empty cache of Triton's in the environment.
"""

import json
import sys
from dataclasses import replace
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tests.cpu.paged import make_rows
from tradewind.kernels.add_rms_norm.triton import TritonAddRmsNorm
from tradewind.kernels.gpu import Chip
from tradewind.kernels.gpu.ready import ReadyKernels
from tradewind.kernels.linear import fp8
from tradewind.kernels.linear.gpu import OF_ANY_SHAPE
from tradewind.kernels.linear.triton import few_rows, quantise
from tradewind.kernels.paged_attention.triton import TritonPagedAttention
from tradewind.kernels.quantised_rows import quantise_rows
from tradewind.kernels.silu_mul.triton import TritonSiluMul

CHIP = Chip.like((9, 0), 132)


class Driver:
    """Of an H100 that takes every kernel and runs none."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.utils = self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, _metadata: Any) -> Any:
        return lambda *_arguments: self.launched.append(source.fn.fn.__name__)

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, *_what: Any) -> tuple[int, int, int, int, int]:
        return 1, 1, 0, 0, 1024

    def unload_module(self, _module: int) -> None:
        pass


def work() -> None:
    """Ten kernels of six: strides of 1, those that 16 divides and others, and pointers that it does not.

    The last four are products, by pointers and by descriptions of tiles, and attention of a prompt, whose second kernel
    is in Gluon, with descriptions of pages.
    """
    gate, norm = TritonSiluMul(CHIP), TritonAddRmsNorm(CHIP)
    for width in (64, 72):
        gate.plain(torch.ones(3, 2 * width, dtype=torch.bfloat16))
        norm.plain(torch.ones(3, width, dtype=torch.bfloat16), None, torch.ones(width, dtype=torch.bfloat16), 1e-5)
    quantise(torch.ones(3, 1, dtype=torch.bfloat16), CHIP)
    quantise(torch.ones(3 * 64 + 1, dtype=torch.bfloat16)[1:].view(3, 64), CHIP)
    weight = fp8.pack(torch.ones(64, 64, dtype=torch.bfloat16), None)
    rows = quantise_rows(torch.ones(3, 64, dtype=torch.bfloat16))
    for tactic in (OF_ANY_SHAPE, replace(OF_ANY_SHAPE, tma=True)):
        few_rows(rows, weight, None, torch.bfloat16, tactic, CHIP)
    pool = torch.ones(3, 2, 2, 16, 64, dtype=torch.bfloat16)
    prompt = make_rows([0], [40], [[0, 1, 2]], 16)
    q_THK = torch.ones(40, 4, 64, dtype=torch.bfloat16)
    TritonPagedAttention(torch.device("cpu"), CHIP)(q_THK, pool[:, 0], pool[:, 1], prompt, 1.0)


def main() -> None:
    """As the first argument says: prepare the kernels before they are launched, or not."""
    active = Driver()
    driver.set_active(active)
    found: list[bool] = []
    knobs.compilation.listener = lambda *, cache_hit, **_more: found.append(cache_hit)
    ready, told = ReadyKernels(threads=2), []
    ready.watch()
    if sys.argv[1] == "prepared":
        ready.prepare(work, lambda done, of: told.append((done, of)))
        assert not active.launched
        ready.prepare(work)
    before, compiled = ready.count, list(found)
    work()
    print(
        json.dumps(
            {
                "told": told,
                "prepared": before,
                "compiled": compiled.count(False),
                "found": compiled.count(True),
                "made at launch": ready.count - before,
                "compiled at launch": found[len(compiled) :].count(False),
                "launched": active.launched,
            }
        )
    )


if __name__ == "__main__":
    main()
