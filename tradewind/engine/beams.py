"""Beam search over one prompt: which beginnings to go on with, and which ends to keep. It asks for logprobs only.

The rules are those of Wu et al. 2016 (arXiv:1609.08144, section 7) as transformers has them: of the 2 * width most
likely continuations of a step, an end among the first `width` is kept, and the first `width` that do not end go on. A
sequence's score is its log probability, divided by the number of its tokens to the power of `length_penalty`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams


@dataclass(frozen=True, slots=True)
class Beam:
    """A sequence: its tokens after the prompt, the probabilities at each, and the log probability of all together."""

    tokens: list[int]
    positions: list[TokenLogprobs]
    logprob: float
    finish_reason: FinishReason = FinishReason.LENGTH

    def extended(self, place: int, position: TokenLogprobs, reason: FinishReason) -> "Beam":
        """This and the `place`-th most likely token after it."""
        token, logprob = position.token_ids[place], position.logprobs[place]
        chosen = TokenLogprobs([token, *position.token_ids[1:]], [logprob, *position.logprobs[1:]], place)
        return Beam([*self.tokens, token], [*self.positions, chosen], self.logprob + logprob, reason)


def step_params(params: BeamSearchParams) -> SamplingParams:
    """What to ask of the engine for each beginning of a step: no more than the probabilities of the next token."""
    logprobs = max(2 * params.beam_width, params.logprobs or 0)
    return SamplingParams(temperature=0.0, max_tokens=1, logprobs=logprobs, ignore_eos=True, detokenize=False)


class BeamSearch:
    """One prompt's search. `live`: the beginnings whose next tokens it needs to know; none: the search is over."""

    def __init__(self, params: BeamSearchParams, max_tokens: int, end_ids: frozenset[int]) -> None:
        """`end_ids`: the tokens that end a sequence."""
        self.params = params
        self._max_tokens = max_tokens
        self._end_ids = end_ids
        self.live = [Beam([], [], 0.0)]
        self._ended: list[Beam] = []

    def advance(self, positions: Sequence[TokenLogprobs]) -> None:
        """One token more. `positions`: for each of `live`, in order, the 2 * width most likely next tokens."""
        width, length = self.params.beam_width, len(self.live[0].tokens) + 1
        candidates = [
            (beam.logprob + position.logprobs[place], place, beam, position)
            for beam, position in zip(self.live, positions, strict=True)
            for place in range(1, 1 + min(2 * width, len(position.logprobs) - 1))
            if position.logprobs[place] > float("-inf")
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        self.live = []
        for rank, (_, place, beam, position) in enumerate(candidates[: 2 * width]):
            ends = position.token_ids[place] in self._end_ids
            if ends or length == self._max_tokens:
                if rank < width:
                    reason = FinishReason.STOP if ends else FinishReason.LENGTH
                    self._ended.append(beam.extended(place, position, reason))
            elif len(self.live) < width:
                self.live.append(beam.extended(place, position, FinishReason.LENGTH))
        self._ended = self.best()
        if self._is_settled(length):
            self.live = []

    def best(self) -> list[Beam]:
        """What was found so far, the best first; at most `width`."""
        return sorted(self._ended, key=self.score, reverse=True)[: self.params.beam_width]

    def score(self, beam: Beam) -> float:
        """What sequences are ranked by."""
        return self._score(beam.logprob, len(beam.tokens))

    def _score(self, logprob: float, length: int) -> float:
        return logprob / float(length**self.params.length_penalty)

    def _is_settled(self, length: int) -> bool:
        """Whether nothing that lives can become better than the worst that is kept, or need not."""
        if not self.live or len(self._ended) < self.params.beam_width:
            return False
        if self.params.early_stopping:
            return True
        longest = self._max_tokens if self.params.length_penalty > 0 else length
        return self._score(self.live[0].logprob, longest) <= self.score(self._ended[-1])
