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

_N, _K, _ROWS, _TIMES = 1024, 256, 480, 30  # weights of 512 KiB (bf16) and the rows stay in second-level caches


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
    multiply = best_s([functools.partial(_repeat, call) for call in _float_products()], repeat)
    (int8_s,) = best_s([functools.partial(_repeat, _int8_product())], repeat)
    operations = 2.0 * _N * _K * _ROWS * _TIMES
    return Ceilings(plain.nbytes / read_s, operations / min(multiply), operations / int8_s)


def _repeat(call: Callable[[], object]) -> None:
    for _ in range(_TIMES):
        call()


def _float_products() -> list[Callable[[], Tensor]]:
    calls: list[Callable[[], Tensor]] = []
    for dtype in (torch.float32, torch.bfloat16):
        x_TD, weight_ND = torch.randn(_ROWS, _K).to(dtype), torch.randn(_N, _K).to(dtype)
        calls.append(functools.partial(torch.nn.functional.linear, x_TD, weight_ND))
        for level in native.runnable():
            ops = NativeLinear(native.load(level))
            calls.append(functools.partial(ops.linear, x_TD, ops.pack(weight_ND, None)))
    return calls


def _int8_product() -> Callable[[], Tensor]:
    ops = NativeQuantised(native.load(), Quantisation(8, 0))
    return functools.partial(ops.linear, torch.randn(_ROWS, _K).bfloat16(), ops.pack(torch.randn(_N, _K), None))
