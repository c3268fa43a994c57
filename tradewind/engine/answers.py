"""What `LLM` gives back: plain data, with the names that vLLM's users know."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tradewind.engine.output import Delta
from tradewind.engine.stream import Usage
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import TokenLogprobs

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural log of a token's probability, its rank among all (1: the most likely), and its text."""

    logprob: float
    rank: int
    decoded_token: str


PositionLogprobs = dict[int, Logprob]  # token id -> its logprob; the chosen token comes first


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One of the n answers to a prompt."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[PositionLogprobs] | None  # one entry per token, if asked for
    finish_reason: FinishReason
    stop_reason: str | int | None  # the stop string or stop token that ended it; None for an end of sequence
    message: str = ""  # with FinishReason.ERROR or REFUSED: why


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A prompt and its answers."""

    prompt: str | None  # None where it was given as token ids
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    prompt_logprobs: list[PositionLogprobs | None] | None  # one entry per prompt token, the first None, if asked for
    usage: Usage


@dataclass(frozen=True, slots=True)
class BeamSearchSequence:
    """One of the sequences that a beam search found. `tokens` and `text` begin with the prompt, as in vLLM."""

    tokens: list[int]
    logprobs: list[PositionLogprobs]  # one entry per token after the prompt
    cum_logprob: float
    text: str
    finish_reason: FinishReason
    stop_reason: int | None


@dataclass(frozen=True, slots=True)
class BeamSearchOutput:
    """What was found for one prompt, the best first."""

    sequences: list[BeamSearchSequence]


def completion_of(delta: Delta, tokenizer: "Tokenizer") -> CompletionOutput:
    """The answer that was read as one delta from its first token to its end."""
    assert delta.finish_reason is not None
    logprobs = None
    if delta.logprobs is not None:
        logprobs = [position_logprobs(position, tokenizer) for position in delta.logprobs]
    return CompletionOutput(
        index=delta.index,
        text=delta.text,
        token_ids=delta.token_ids,
        logprobs=logprobs,
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
        message=delta.message,
    )


def position_logprobs(position: TokenLogprobs, tokenizer: "Tokenizer") -> PositionLogprobs:
    """The alternatives at one position, by token id."""
    chosen, *alternatives = position.token_ids
    named = {chosen: Logprob(position.logprobs[0], position.rank, tokenizer.token_text(chosen))}
    for rank, (token, logprob) in enumerate(zip(alternatives, position.logprobs[1:], strict=True), start=1):
        if token not in named:
            named[token] = Logprob(logprob, rank, tokenizer.token_text(token))
    return named
