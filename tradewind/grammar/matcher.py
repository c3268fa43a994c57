"""Where a sequence stands in its grammar, and what it may say next."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import llguidance
import numpy as np

from tradewind.grammar.compile import new_limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int32s = NDArray[np.int32]


class Vocabulary:
    """A model's tokens, as grammars see them. Immutable; takes about half a second to build for 150,000 tokens."""

    def __init__(self, tokens: list[bytes], special_ids: Sequence[int], eos_ids: Sequence[int]) -> None:
        """`tokens[i]`: the bytes that token i adds to a text; empty for a token that is never to be said."""
        source = _Source(tokens, special_ids, eos_ids)
        self._library = llguidance.LLTokenizer(source, eos_token=list(eos_ids) or None)  # type: ignore[arg-type]
        self.words = -(-len(tokens) // 32)

    def begin(self, text: str) -> "Matcher":
        """A matcher at the beginning of a compiled grammar; one in error if it cannot be built after all."""
        return Matcher(llguidance.LLMatcher(self._library, text, log_level=0, limits=new_limits()))


class Matcher:
    """One sequence's place in its grammar."""

    def __init__(self, library: llguidance.LLMatcher) -> None:
        self._library = library

    def copy(self) -> "Matcher":
        """Another one at the same place. Cheap: what has been compiled is shared."""
        return Matcher(self._library.deep_copy())

    def advance(self, token: int) -> bool:
        """Take the token that was said; whether more may follow. False also after an error."""
        return bool(self._library.consume_token(token)) and not self._library.is_stopped()

    @property
    def error(self) -> str | None:
        """Why it cannot go on, where that is not simply the end."""
        return str(self._library.get_error()).strip() if self._library.is_error() else None

    def fill(self, bits_W: "Int32s") -> None:
        """Write the mask of what may be said next (see TokenMasks). In an error that is nothing at all, not even an
        end: what was said so far is not what was asked for."""
        self._library.unsafe_compute_mask_ptr(bits_W.ctypes.data, bits_W.nbytes)
        if self._library.is_error():
            bits_W.fill(0)


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
