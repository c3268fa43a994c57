"""The engine for an asyncio program: it runs in a process of its own, supervised from here. Imports no torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from tradewind.config import Config
from tradewind.engine.output import Delta
from tradewind.engine.stream import EngineListener, RequestTimings, Stream, Usage
from tradewind.protocol.messages import Ready
from tradewind.protocol.result import EngineStats
from tradewind.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from tradewind.text.generation import GenerationDefaults
    from tradewind.text.tokenizer import Tokenizer

__all__ = ["AsyncEngine", "Delta", "EngineListener", "EngineState", "RequestTimings", "Stream", "Usage"]

EngineState = Literal["starting", "ready", "restarting", "failed", "draining"]


class AsyncEngine:
    """One engine process and its clients. All methods belong to the thread of one running event loop.

    Attributes: `tokenizer`, `defaults` (sampling defaults of the model), `ready` (what the engine said of itself),
    `stats` (the newest snapshot), `state`, `failure` (why it is not ready, for people; None when it is), `pid`.
    """

    tokenizer: "Tokenizer"
    defaults: "GenerationDefaults"
    ready: Ready
    stats: EngineStats
    state: EngineState
    failure: str | None

    @classmethod
    async def start(cls, config: Config, on_progress: Callable[[str, float], None] | None = None) -> "AsyncEngine":
        """Find the model, start the process and wait until it is ready.

        `on_progress(stage, share)` is called on the way. Raises StartupError (or one of its kinds) when it cannot be.
        """
        engine = cls(config, on_progress)
        try:
            await engine.boot()
        except BaseException:
            await engine.close()
            raise
        return engine

    def __init__(self, config: Config, on_progress: Callable[[str, float], None] | None = None) -> None:
        raise NotImplementedError

    async def boot(self) -> None:
        """The second half of `start`, for a caller that wants to serve /health (state 'starting') meanwhile."""
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """The engine process, while there is one."""
        raise NotImplementedError

    def submit(
        self,
        prompt_tokens: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        timeout_s: float | None = None,
        cache_salt: str = "",
    ) -> Stream:
        """Start a request, at once.

        Raises RequestError with the offending `field`, ContextLengthExceeded, Overloaded (the queue is full), Draining,
        or EngineUnavailable (starting, restarting, or failed for good).
        """
        raise NotImplementedError

    def subscribe(self, listener: EngineListener) -> None:
        """Tell `listener` of every step and every end of a sequence, from now on."""
        raise NotImplementedError

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new work and wait for the running streams; what still runs after `timeout_s` is aborted.

        Returns whether all of them finished by themselves.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """End the process and remove its temporary folder. Streams still open fail with EngineFailed."""
        raise NotImplementedError
