"""The native kernels, at every instruction set that this machine can run."""

from collections.abc import Iterator

import pytest
import torch

from tradewind.kernels import native


@pytest.fixture(params=list(native.LEVELS))
def library(request: pytest.FixtureRequest) -> native.Library:
    if request.param not in native.runnable():
        pytest.skip(f"{request.param} cannot run here, or the kernels were not built")
    return native.load(request.param)


@pytest.fixture
def best() -> native.Library:
    library = native.load()
    if library.why_not is not None:
        pytest.skip(library.why_not)
    return library


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Two threads, whatever the machine has, and a fixed seed."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)
