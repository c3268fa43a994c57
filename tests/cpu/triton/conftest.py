"""Triton's interpreter: kernels run as Python, program by program, on the CPU. It is asked for before they load."""

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="Triton is not installed")
