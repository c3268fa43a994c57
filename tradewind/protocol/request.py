"""A request as the engine loop sees it: token ids only, everything resolved."""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"  # an end-of-sequence or stop token, or a stop string
    LENGTH = "length"  # max_tokens or the model's context
    ABORT = "abort"  # the client went away or asked for it
    DEADLINE = "deadline"  # the request's own deadline passed
    ERROR = "error"  # this request alone failed; the message says why
    REFUSED = "refused"  # what it asks of its tokens turned out to be impossible; the message says why


class RowSampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """SamplingParams after resolution, as one row of the runner needs it. `seed` is always set (64 bits, unsigned)."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_word_ids: list[list[int]] | None = None  # each word as token ids; its last id is masked after the others
    min_tokens: int = 0  # stop tokens are masked until this many tokens are out
    logprobs: int | None = None
    prompt_logprobs: int | None = None


class RowGrammar(msgspec.Struct, frozen=True):
    """What one sequence may say.

    `text`: a grammar as tradewind.grammar compiled it; None: anything. With `reasoning_end`, it holds from the token
    after that one on; with `reasoning_begin` too, only if the sequence begins with that token, and else from the first
    token on. After `reasoning_tokens` between the two, not counting them, the next one is `reasoning_end`.
    """

    text: str | None
    reasoning_begin: int | None = None
    reasoning_end: int | None = None
    reasoning_tokens: int | None = None  # None: as many as the model likes

    @property
    def masks_at_once(self) -> bool:
        """Whether one of the first two tokens, which are planned before either is known, may need a mask."""
        return self.text is not None or (self.reasoning_tokens is not None and self.reasoning_tokens < 2)


class EngineRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence. A request with n > 1 becomes n of these, with derived seeds."""

    request_id: int  # unique in the life of one engine; chosen by the client, ascending
    prompt_tokens: Sequence[int]
    sampling: RowSampling
    max_tokens: int  # at least 1; prompt + max_tokens <= max_model_len
    stop_token_ids: list[int] = []  # ends of sequence (unless ignored) and the request's own, together
    priority: int = 0  # lower runs first, under the priority policy
    deadline_s: float | None = None  # on the machine's monotonic clock
    arrival_s: float = 0.0
    cache_salt: str = ""  # only requests with the same salt share cached prefixes
    grammar: RowGrammar | None = None

    def with_others(self, seeds: Iterable[int]) -> "list[EngineRequest]":
        """This one and, with ids that follow its own, its others: a sequence for each seed, without prompt logprobs."""
        sampling = msgspec.structs.replace(self.sampling, prompt_logprobs=None)
        others = (
            msgspec.structs.replace(
                self, request_id=self.request_id + place, sampling=msgspec.structs.replace(sampling, seed=seed)
            )
            for place, seed in enumerate(seeds, 1)
        )
        return [self, *others]

    @property
    def forbids_tokens(self) -> bool:
        """Whether what it asks for can leave no token to say."""
        return bool(self.grammar or self.sampling.allowed_token_ids or self.sampling.bad_word_ids)
