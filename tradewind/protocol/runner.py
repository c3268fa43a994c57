"""The runner's side of the seam, as a type: the real one, the fake one and an executor all satisfy it."""

from typing import Protocol

from tradewind.protocol.plan import RunnerInfo, StepPlan, TokenMasks
from tradewind.protocol.result import StepResult


class Pending(Protocol):
    """A step that has been issued: all of it, or only its forward if its plan has masked rows."""

    def mask(self, masks: TokenMasks) -> None:
        """Issue the sampling of a plan with masked rows.

        Once, before `result` and before the next step is issued. Until then the host may compute the masks while the
        device computes the forward.
        """
        ...

    def done(self) -> bool:
        """Whether `result` would return without waiting."""
        ...

    def result(self) -> StepResult:
        """Wait for the step. Raises what the step raised."""
        ...


class Runner(Protocol):
    """One device, or several behind an executor."""

    @property
    def info(self) -> RunnerInfo:
        """What was measured at boot."""
        ...

    @property
    def compiled_kernels(self) -> int:
        """How many kernels were made ready in this process so far; it must not grow once boot is over."""
        ...

    @property
    def eager_steps(self) -> int:
        """How many steps were launched kernel by kernel, where graphs would be replayed: for want of a graph."""
        ...

    def tidy(self) -> bool:
        """With no step in flight and nothing to do: a moment's work that boot left undone. Whether more is left."""
        ...

    def run(self, plan: StepPlan) -> Pending:
        """Issue a step. Steps are executed in the order in which they are issued."""
        ...

    def close(self) -> None:
        """Give the device's memory back."""
        ...
