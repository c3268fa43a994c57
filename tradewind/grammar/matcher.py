"""Where a sequence stands in its grammar, and what it may say next."""

import time
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
COSTLY_S = 0.001  # a mask that takes longer is a burden to the sequences that share the step
_TIMED_SHARE = 32  # one in so many masks is timed where all are computed in one call


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
        self._turn = 0

    def begin(self, text: str) -> "Matcher":
        """A matcher at the beginning of a compiled grammar, its first mask prepared.

        It is in error if the grammar cannot be built after all.
        """
        matcher = Matcher(llguidance.LLMatcher(self._library, text, log_level=0, limits=new_limits()))
        if matcher.error is None:
            matcher.prepare()
        return matcher

    def masks(self, matchers: "Sequence[Matcher | None]") -> "Int32s":
        """bits_MW (see TokenMasks): what may be said next. Everything where there is no matcher.

        In an error that is nothing at all, not even an end: what was said so far is not what was asked for.
        """
        bits_MW = np.empty((len(matchers), self._words), np.int32)
        start, stride = bits_MW.ctypes.data, bits_MW.strides[0]
        asked = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
        if self._pool is None:
            _fill(asked, start, stride)
        elif asked:
            _fill(self._next_timed(asked), start, stride)
            libraries = [(matcher.library, row) for row, matcher in asked]
            self._pool.unsafe_compute_mask_ptr(libraries, start, stride, len(matchers))
        if len(asked) < len(matchers):
            bits_MW[[row for row, matcher in enumerate(matchers) if matcher is None]] = _EVERYTHING
        failed = [row for row, matcher in asked if matcher.library.is_error()]
        if failed:
            bits_MW[failed] = _NOTHING
        return bits_MW

    def _next_timed(self, asked: "Sequence[tuple[int, Matcher]]") -> "Sequence[tuple[int, Matcher]]":
        """Some of them, others each time: their masks are computed ahead of the common call, which has them then."""
        first = self._turn % len(asked)
        self._turn = first + 1 + len(asked) // _TIMED_SHARE
        return asked[first : self._turn]


class Matcher:
    """One sequence's place in its grammar. `is_costly`: whether one of its masks took longer than COSTLY_S."""

    def __init__(self, library: llguidance.LLMatcher, is_costly: bool = False) -> None:
        self.library = library
        self.is_costly = is_costly

    def copy(self) -> "Matcher":
        """Another one at the same place. Cheap: what has been compiled, and a mask that is prepared, are shared."""
        return Matcher(self.library.deep_copy(), self.is_costly)

    def prepare(self) -> None:
        """Compute the next mask: until `advance`, `Vocabulary.masks` has it at once.

        In any thread; nobody else may use the matcher meanwhile.
        """
        begun_s = time.thread_time()
        self.library.compute_bitmask()
        self.is_costly |= time.thread_time() - begun_s > COSTLY_S

    def advance(self, token: int) -> bool:
        """Take the token that was said; whether more may follow. False also after an error."""
        return bool(self.library.consume_token(token)) and not self.library.is_stopped()

    @property
    def error(self) -> str | None:
        """Why it cannot go on, where that is not simply the end."""
        return str(self.library.get_error()).strip() if self.library.is_error() else None


def _fill(asked: "Sequence[tuple[int, Matcher]]", start: int, stride: int) -> None:
    """Compute masks in this thread, into rows of `stride` bytes from address `start` on, and see which are costly."""
    cpu_s, before_s = time.thread_time(), time.perf_counter()
    for row, matcher in asked:
        matcher.library.unsafe_compute_mask_ptr(start + row * stride, stride)
        now_s = time.perf_counter()
        # Unless it only waited for a core. The clock of the processor's time is too slow to be read for each.
        if now_s - before_s > COSTLY_S:
            matcher.is_costly |= time.thread_time() - cpu_s > COSTLY_S
            cpu_s = time.thread_time()
        before_s = now_s


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
