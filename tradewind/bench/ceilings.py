"""What the machine can do at most: reading memory once, and multiplying what lies in the caches."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tradewind.kernels import native
from tradewind.kernels.linear.cpu import NativeLinear
from tradewind.kernels.linear.quantisation import Quantisation
from tradewind.kernels.linear.quantised_cpu import NativeQuantised
from tradewind.kernels.memory import empty

# Weights of 0.5 and 1 MiB (bf16) and the rows stay in second-level caches.
_SHAPES_NK, _ROWS, _TIMES = ((1024, 256), (512, 1024)), 480, 15


@dataclass(frozen=True)
class Ceilings:
    """`read`: bytes a second from memory. `multiply`, `multiply_int8`: operations a second, two for a product."""

    read: float
    multiply: float
    multiply_int8: float


def best_s(calls: Sequence[Callable[[], object]], repeat: int) -> list[float]:
    """The shortest time of each call, in seconds. They take turns, so that a change of the machine's pace hits all."""
    times_s = [float("inf")] * len(calls)
    for _ in range(repeat + 1):
        for index, call in enumerate(calls):
            start_s = time.perf_counter()
            call()
            times_s[index] = min(times_s[index], time.perf_counter() - start_s)
    return times_s


def measure_ceilings(repeat: int) -> Ceilings:
    """With torch's number of threads. Multiplying: the best that any instruction set, dtype or library reaches."""
    plain = empty((1 << 28,), torch.float32).fill_(1)
    (read_s,) = best_s([plain.sum], repeat)
    multiply, multiply_int8 = 0.0, 0.0
    for n, k in _SHAPES_NK:
        operations = 2.0 * n * k * _ROWS * _TIMES
        floats_s = min(best_s([functools.partial(_repeat, call) for call in _float_products(n, k)], repeat))
        (int8_s,) = best_s([functools.partial(_repeat, _int8_product(n, k))], repeat)
        multiply, multiply_int8 = max(multiply, operations / floats_s), max(multiply_int8, operations / int8_s)
    return Ceilings(plain.nbytes / read_s, multiply, multiply_int8)


def _repeat(call: Callable[[], object]) -> None:
    for _ in range(_TIMES):
        call()


def _float_products(n: int, k: int) -> list[Callable[[], Tensor]]:
    calls: list[Callable[[], Tensor]] = []
    for dtype in (torch.float32, torch.bfloat16):
        x_TD, weight_ND = torch.randn(_ROWS, k).to(dtype), torch.randn(n, k).to(dtype)
        calls.append(functools.partial(torch.nn.functional.linear, x_TD, weight_ND))
        for level in native.runnable()[:2]:  # one of them has bf16 products
            ops = NativeLinear(native.load(level))
            calls.append(functools.partial(ops.linear, x_TD, ops.pack(weight_ND, None)))
    return calls


def _int8_product(n: int, k: int) -> Callable[[], Tensor]:
    ops = NativeQuantised(native.load(), Quantisation(8, 0))
    return functools.partial(ops.linear, torch.randn(_ROWS, k).bfloat16(), ops.pack(torch.randn(n, k), None))
