"""What a slot's request asks for beyond temperature and filters, ready for the device.

Legend: E entries, W bad words of several tokens, L their longest beginning.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tradewind.protocol.plan import RowStart
from tradewind.protocol.request import RowSampling
from tradewind.runner.transfer import numbers

_ANY = -1  # in a bad word's beginning: whatever token
_NONE = -2  # in a tail: no token was said there


@dataclass(frozen=True, slots=True)
class BadWords:
    """Words of several tokens: `last_W` is forbidden where the output ends with `before_WL` (padded with _ANY)."""

    before_WL: Tensor
    last_W: Tensor

    @classmethod
    def of(cls, words: list[list[int]], device: torch.device) -> "BadWords | None":
        """From words of at least two tokens; None if there are none."""
        if not words:
            return None
        longest = max(len(word) for word in words) - 1
        before = [[_ANY] * (longest + 1 - len(word)) + word[:-1] for word in words]
        last = [word[-1] for word in words]
        return cls(numbers(before, torch.int64, device), numbers(last, torch.int64, device))

    def added(self, output_O: Tensor) -> Tensor:
        """What to add to the logits of `last_W` after this output: -inf or 0, float32 [W]."""
        longest = self.before_WL.shape[1]
        tail_L = self.before_WL.new_full((longest,), _NONE)
        said = min(longest, len(output_O))
        tail_L[longest - said :] = output_O[len(output_O) - said :]
        matched_W = ((self.before_WL == tail_L) | (self.before_WL == _ANY)).all(1)
        return torch.zeros(len(self.last_W), device=self.last_W.device).masked_fill_(matched_W, -torch.inf)


@dataclass(frozen=True, slots=True)
class Extras:
    """One slot's. Tensors are on the device: ids int64, values float32.

    `always_E`, `always_values_E`: added to the logits of every step (biases; -inf for bad words of one token).
    `stops_E`: token ids forbidden while fewer than `min_tokens` are out.
    """

    sampling: RowSampling
    prompt_tokens: int
    allowed_E: Tensor | None
    always_E: Tensor
    always_values_E: Tensor
    stops_E: Tensor
    bad_words: BadWords | None

    @classmethod
    def of(cls, start: RowStart, vocab: int, device: torch.device) -> "Extras":
        """From a slot's new owner. Token ids outside the vocabulary (of stop tokens and bad words) mean nothing."""
        sampling = start.sampling
        words = [word for word in sampling.bad_word_ids or [] if word and all(0 <= token < vocab for token in word)]
        single = [word[0] for word in words if len(word) == 1]
        bias = sampling.logit_bias or {}
        allowed = sampling.allowed_token_ids
        return cls(
            sampling=sampling,
            prompt_tokens=start.prompt_tokens,
            allowed_E=None if allowed is None else _ids(sorted(set(allowed)), device),
            always_E=_ids([*bias, *single], device),
            always_values_E=numbers([*bias.values(), *[-np.inf] * len(single)], torch.float32, device),
            stops_E=_ids([token for token in start.stop_token_ids if 0 <= token < vocab], device),
            bad_words=BadWords.of([word for word in words if len(word) > 1], device),
        )

    @property
    def penalised(self) -> bool:
        """Whether any penalty is on."""
        return self.counted or self.sampling.repetition_penalty != 1

    @property
    def counted(self) -> bool:
        """Whether a penalty is on that needs to know how often each token was said."""
        return self.sampling.presence_penalty != 0 or self.sampling.frequency_penalty != 0


def _ids(tokens: list[int], device: torch.device) -> Tensor:
    return numbers(tokens, torch.int64, device)
