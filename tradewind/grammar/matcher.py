"""Where a sequence stands in its grammar, and what it may say next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import llguidance
import numpy as np

from tradewind.grammar.compile import new_limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]


_FEW_TOKENS = 2**14  # up to which looking at all is faster than llguidance's shortcuts for the insides of texts
_EVERYTHING, _NOTHING = -1, 0  # words of a mask


class Vocabulary:
    """A model's tokens, as grammars see them. Immutable; takes about half a second to build for 150,000 tokens."""

    def __init__(
        self, tokens: list[bytes], special_ids: Sequence[int], eos_ids: Sequence[int], mask_threads: int = 1
    ) -> None:
        """`tokens[i]`: the bytes that token i adds to a text; empty for a token that is never to be said.

        `mask_threads`: how many cores are free while masks are computed. With 1 it is the caller's thread that does it.
        """
        self._library = llguidance.LLTokenizer(
            _Source(tokens, special_ids, eos_ids),  # type: ignore[arg-type]
            eos_token=list(eos_ids) or None,
            slices=None if len(tokens) > _FEW_TOKENS else [],
        )
        self._words = -(-len(tokens) // 32)
        self._pool = llguidance.LLExecutor(mask_threads) if mask_threads > 1 else None

    def begin(self, text: str) -> "Matcher":
        """A matcher at the beginning of a compiled grammar; one in error if it cannot be built after all."""
        return Matcher(llguidance.LLMatcher(self._library, text, log_level=0, limits=new_limits()))

    def masks(self, matchers: "Sequence[Matcher | None]") -> "Int32s":
        """bits_MW (see TokenMasks): what may be said next. Everything where there is no matcher.

        In an error that is nothing at all, not even an end: what was said so far is not what was asked for.
        """
        bits_MW = np.empty((len(matchers), self._words), np.int32)
        start, stride = bits_MW.ctypes.data, bits_MW.strides[0]
        asked = [(matcher.library, row) for row, matcher in enumerate(matchers) if matcher is not None]
        if self._pool is not None and asked:
            self._pool.unsafe_compute_mask_ptr(asked, start, stride, len(matchers))
        elif self._pool is None:
            for library, row in asked:
                library.unsafe_compute_mask_ptr(start + row * stride, stride)
        bits_MW[[row for row, matcher in enumerate(matchers) if matcher is None]] = _EVERYTHING
        bits_MW[[row for library, row in asked if library.is_error()]] = _NOTHING
        return bits_MW


class Matcher:
    """One sequence's place in its grammar."""

    def __init__(self, library: llguidance.LLMatcher) -> None:
        self.library = library

    def copy(self) -> "Matcher":
        """Another one at the same place. Cheap: what has been compiled is shared."""
        return Matcher(self.library.deep_copy())

    def advance(self, token: int) -> bool:
        """Take the token that was said; whether more may follow. False also after an error."""
        return bool(self.library.consume_token(token)) and not self.library.is_stopped()

    @property
    def error(self) -> str | None:
        """Why it cannot go on, where that is not simply the end."""
        return str(self.library.get_error()).strip() if self.library.is_error() else None


class _Source:
    """A tokenizer in the shape that llguidance asks for."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_ids: Sequence[int], eos_ids: Sequence[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = list(special_ids)
        self.eos_token_id = eos_ids[0] if eos_ids else None

    def __call__(self, _text: str) -> list[int]:
        """Grammars force no tokens (see source.HEAD), so nothing is ever tokenised."""
        return []
