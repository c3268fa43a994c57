"""Gluon kernels in Triton's interpreter, which knows no layouts: the same functions, with Triton's operations."""

from types import FunctionType
from typing import Any

import triton
from triton import language as tl
from triton.experimental.gluon._runtime import GluonJITFunction
from triton.runtime.interpreter import InterpretedFunction


def interpreted(kernel: Any, **stand_ins: Any) -> Any:
    """`kernel` as `triton.jit` gives it where kernels are interpreted; so are those that it calls.

    `stand_ins`: for names of its module.
    """
    own = kernel.fn.__globals__
    known: dict[str, Any] = {**own, "gl": Language(), "tl": tl, "mma_v2": lambda a, b, acc: tl.dot(a, b, acc)}
    known |= stand_ins
    for name, value in own.items():
        if isinstance(value, GluonJITFunction) and value is not kernel and name not in stand_ins:
            known[name] = triton.jit(_with(value.fn, known))
    made = InterpretedFunction(_with(kernel.fn, known))
    made.rewrite().__annotations__ = dict.fromkeys(kernel.fn.__annotations__, "constexpr")
    return made


def _with(function: Any, known: dict[str, Any]) -> FunctionType:
    return FunctionType(function.__code__, known, function.__name__, function.__defaults__)


class Language:
    """Stands for `gluon.language`: Triton's operations, which the interpreter replaces while a kernel runs."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("Layout"):
            return lambda *_arguments: None
        return getattr(tl, name)

    def arange(self, first: int, last: int, _layout: None) -> Any:
        return tl.arange(first, last)

    def zeros(self, shape: list[int], dtype: Any, _layout: None) -> Any:
        return tl.zeros(shape, dtype)

    def full(self, shape: list[int], value: Any, dtype: Any, _layout: None) -> Any:
        return tl.full(shape, value, dtype)

    def convert_layout(self, x: Any, _layout: None, assert_trivial: bool = False) -> Any:
        return x
