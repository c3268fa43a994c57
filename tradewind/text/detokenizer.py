"""Tokens to text, one at a time, for streams."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tradewind.text.pieces import REPLACEMENT, DecoderKind, Piece, take_characters

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer

_LONGEST_UNFINISHED = 3  # bytes: all but the last of the longest UTF-8 character
_WINDOW_TOKENS = 8  # tokens of the prompt that the library sees before the first one of the stream


class Detokenizer:
    """The text of one sequence, as its tokens arrive.

    The pushes and the flush, joined, are the text that `Tokenizer.decode` gives for prompt and output together, less
    the prompt's own. Text is given out as soon as its characters are whole. So the leading-space rule of SentencePiece
    applies only where the prompt has no text, and a character that the prompt left unfinished is finished here.
    """

    __slots__ = ("_each_byte", "_pending", "_pieces", "_plain", "_strip_spaces", "_window")

    def __init__(
        self, tokenizer: "Tokenizer", prompt_tokens: Sequence[int] = (), skip_special_tokens: bool = True
    ) -> None:
        spec = tokenizer.decoder
        self._pieces = tokenizer.pieces(skip_special_tokens)
        self._each_byte = spec.kind is DecoderKind.SENTENCEPIECE
        tail = self._tail_pieces(prompt_tokens)
        self._pending = self._unfinished(tail)
        self._strip_spaces = 0 if tail else spec.strip_spaces
        self._window: _LibraryWindow | None = None
        if spec.kind is DecoderKind.OTHER:
            self._window = _LibraryWindow(tokenizer, prompt_tokens, skip_special_tokens)
        self._plain = self._is_plain()

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that it settles ('' while a character is incomplete)."""
        piece = self._pieces[token_id]
        if self._plain and piece.__class__ is str:
            return piece
        return self._push_unsettled(token_id, piece)

    def flush(self) -> str:
        """End of the sequence: the text still held back, with U+FFFD for a character left incomplete."""
        if self._window is not None:
            return self._window.flush()
        text, self._pending = take_characters(self._pending, True, self._each_byte)
        text = self._strip(text)
        self._plain = self._is_plain()
        return text

    def _push_unsettled(self, token_id: int, piece: Piece) -> str:
        if self._window is not None:
            return self._window.push(token_id)
        if not piece:
            return ""
        if isinstance(piece, str):
            before = take_characters(self._pending, True, self._each_byte)[0] if self._pending else ""
            text, self._pending = before + piece, b""
        else:
            text, self._pending = take_characters(self._pending + piece, False, self._each_byte)
        text = self._strip(text)
        self._plain = self._is_plain()
        return text

    def _strip(self, text: str) -> str:
        if not text or not self._strip_spaces:
            return text
        self._strip_spaces = 0
        return text.removeprefix(" ")

    def _is_plain(self) -> bool:
        """Whether a whole piece is the text to give out, unchanged."""
        return self._window is None and not self._pending and not self._strip_spaces

    def _tail_pieces(self, prompt_tokens: Sequence[int]) -> list[Piece]:
        """The prompt's last pieces that have text, as many as an unfinished character may span."""
        tail: list[Piece] = []
        for token_id in reversed(prompt_tokens):
            piece = self._pieces[token_id]
            if piece:
                tail.append(piece)
            if len(tail) == _LONGEST_UNFINISHED or (isinstance(piece, str) and piece):
                break
        return tail[::-1]

    def _unfinished(self, tail: list[Piece]) -> bytes:
        """Bytes of a character that the prompt begins and does not end."""
        pending = b""
        for piece in tail:
            if isinstance(piece, bytes):
                pending = take_characters(pending + piece, False, self._each_byte)[1]
            else:
                pending = b""
        return pending


class _LibraryWindow:
    """For decoders that only the tokenizers library knows: decode a short window of tokens, give out what is new.

    `_tokens[:_settled]` have been given out and stay as the left neighbours of those that follow. Tokens that are
    skipped are no neighbours: however many there are, the text before them still decides how the next one is written.
    """

    def __init__(self, tokenizer: "Tokenizer", prompt_tokens: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._skipped = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._tokens = self._last_seen(prompt_tokens)
        self._settled = len(self._tokens)

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        self._tokens.append(token_id)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._settle()
        return text

    def flush(self) -> str:
        text = self._new_text()
        self._settle()
        return text

    def _last_seen(self, prompt_tokens: Sequence[int]) -> list[int]:
        seen = (token_id for token_id in reversed(prompt_tokens) if token_id not in self._skipped)
        return list(itertools.islice(seen, _WINDOW_TOKENS))[::-1]

    def _new_text(self) -> str:
        before = self._decode(self._tokens[: self._settled])
        return self._decode(self._tokens)[len(before) :]

    def _settle(self) -> None:
        self._tokens = self._tokens[max(0, min(self._settled, len(self._tokens) - _WINDOW_TOKENS)) :]
        self._settled = len(self._tokens)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode_by_library(tokens, self._skip_special_tokens)
