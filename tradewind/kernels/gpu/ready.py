"""How many kernels were made ready: the proof that nothing is compiled while serving."""

from typing import Any


class ReadyKernels:
    """Counts the kernels that Triton makes ready in this process, compiled or found in its cache, from `watch` on.

    Triton tells one listener in a process: the newest.
    """

    def __init__(self) -> None:
        self.count = 0

    def watch(self) -> None:
        """Begin to count."""
        from triton import knobs

        knobs.runtime.jit_post_compile_hook = self._note

    def _note(self, **_what: Any) -> None:
        self.count += 1
