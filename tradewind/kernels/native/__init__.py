"""The CPU kernels in C++: one shared library of plain C functions, compiled for several instruction sets.

`library.load` finds and opens it; the `cpu.py` of each op calls it. Where it was not built (no compiler when the
package was installed), the ops fall back to torch and say so.
"""

from tradewind.kernels.native.library import DTYPE_CODES, LEVELS, Library, load, runnable

__all__ = ["DTYPE_CODES", "LEVELS", "Library", "load", "runnable"]
