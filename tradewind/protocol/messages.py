"""What crosses between the client and the engine process (msgpack over ZMQ)."""

import msgspec

from tradewind.protocol.request import EngineRequest
from tradewind.protocol.result import Admission, EngineStats, Finish, PromptLogprobs, TokenLogprobs
from tradewind.protocol.snapshot import EngineView


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Start the sequences of a client's request: `first`, and those after it, which differ by their seeds."""

    first: EngineRequest
    other_seeds: list[int] = []


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Forget these sequences; ids that are unknown or done are ignored. No Finish follows."""

    request_ids: list[int]


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the process; what runs is dropped (the client drains first)."""


class TakeSnapshot(msgspec.Struct, frozen=True, tag="take_snapshot"):
    """Say how you look, between two steps: one Snapshot follows."""


ToEngine = Add | Abort | TakeSnapshot | Shutdown


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Boot goes on: for people and progress bars. `share` is in 0..1."""

    stage: str
    share: float


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """The engine takes requests. Fields as in RunnerInfo."""

    max_model_len: int
    vocab_size: int
    max_running: int
    num_blocks: int
    block_tokens: int
    step_tokens: int
    device: str
    dtype: str
    weights_bytes: int
    kv_bytes: int
    boot_s: float
    implementations: dict[str, str]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The engine cannot start; restarting will not help. `error` is the class name in tradewind.base.errors."""

    error: str
    message: str
    field: str | None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The scheduler does not take this sequence. `error` is the class name in tradewind.base.errors."""

    request_id: int
    error: str
    message: str
    field: str | None
    retry_after_s: float | None = None


# The exit status of an engine process that has sent Failed or Crashed: the client must not take its end for news before
# it has read that. Any other status comes without last words.
EXIT_AFTER_LAST_WORDS = 70


class Crashed(msgspec.Struct, frozen=True, tag="crashed"):
    """The last words of a running engine whose step raised; the process ends after them. Starting again may help."""

    message: str


class Step(msgspec.Struct, frozen=True, tag="step", kw_only=True, omit_defaults=True):
    """Updates of one step. `request_ids` is little-endian int64[n], `tokens` int32[n]: one copy each, no boxing."""

    request_ids: bytes = b""
    tokens: bytes = b""
    finished: list[Finish] = []
    admitted: list[Admission] = []
    logprobs: dict[int, TokenLogprobs] = {}
    prompt_logprobs: dict[int, PromptLogprobs] = {}


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Sent every half second while work is in hand, and once when it ends: figures, and proof of life."""

    stats: EngineStats
    step_age_s: float  # how long the step in flight has been running; 0 when idle


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """The answer to a TakeSnapshot."""

    view: EngineView


FromEngine = Progress | Ready | Failed | Refused | Crashed | Step | Heartbeat | Snapshot
