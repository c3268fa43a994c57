"""What one step gave: the runner's answer, and what the scheduler makes of it for the clients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from tradewind.protocol.request import FinishReason

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StepResult:
    """`tokens[i]` (int32) was drawn for `slots[i]` (int32): the plan's rows with `sample` set, in the plan's order.

    `logprobs` has an entry for each sampled slot that asked for them. `prompt_logprobs` has one for each slot whose
    prompt positions were computed in this step and that asked for them.
    """

    step: int
    slots: "NDArray[np.int32]"
    tokens: "NDArray[np.int32]"
    logprobs: dict[int, "TokenLogprobs"] | None = None
    prompt_logprobs: dict[int, "PromptLogprobs"] | None = None
    failed: dict[int, str] | None = None  # slot -> why; only this request ends
    device_s: float = 0.0  # time the device took, 0 where unknown


NOTHING_TO_DRAW = "the model's logits are not finite numbers, or every token is forbidden"
"""Why a row failed that had no token to draw."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities (natural log, of the raw logits) at one position. The chosen token always comes first.

    `token_ids` and `logprobs`: the chosen token, then the k most likely in descending order (which may repeat it).
    `rank`: the chosen token's rank, 1 for the most likely.
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


class PromptLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The positions [start, start + len(positions)) of the prompt; position 0 has none and never appears."""

    start: int
    positions: list[TokenLogprobs]


class Finish(msgspec.Struct, frozen=True, array_like=True):
    """A sequence ended. Nothing follows for this id.

    `stop_token`: the token that ended it, where one did (an end-of-sequence token is part of `tokens` too).
    """

    request_id: int
    reason: FinishReason
    stop_token: int | None = None
    message: str = ""


class Admission(msgspec.Struct, frozen=True, array_like=True):
    """A sequence runs for the first time. `cached_tokens` of its prompt came from the prefix cache."""

    request_id: int
    queue_s: float
    cached_tokens: int


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot for metrics. Counters only grow within one engine's life."""

    running: int = 0
    waiting: int = 0
    blocks_total: int = 0
    blocks_used: int = 0  # held by running requests
    blocks_cached: int = 0  # free, but with a reusable prefix
    prefix_query_tokens: int = 0  # counter
    prefix_hit_tokens: int = 0  # counter
    preemptions: int = 0  # counter
    steps: int = 0  # counter
    host_s: float = 0.0  # counter: plan + apply + serialise
    device_s: float = 0.0  # counter
    prompt_tokens: int = 0  # counter: computed
    output_tokens: int = 0  # counter
    compiled_kernels: int = 0  # counter: made ready since the engine's process began; boot is the time for it
    eager_steps: int = 0  # counter: launched kernel by kernel for want of a graph


@dataclass(slots=True)
class Updates:
    """What a step changed for the clients, in columns: `tokens[i]` (int32) was said by `request_ids[i]` (int64)."""

    request_ids: "NDArray[np.int64]"
    tokens: "NDArray[np.int32]"
    finished: list[Finish]
    admitted: list[Admission]
    logprobs: dict[int, TokenLogprobs]  # by request id
    prompt_logprobs: dict[int, PromptLogprobs]  # by request id; a long prompt's come in several
