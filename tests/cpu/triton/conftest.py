"""Triton's interpreter: kernels run as Python, program by program, on the CPU."""

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
