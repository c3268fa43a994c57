"""What each token contributes to the text, worked out on first use and kept.

A **piece** is `str` where the token's bytes are whole UTF-8 characters, and `bytes` where they begin, continue or end a
character that is split over several tokens. The kinds of decoder that nearly all checkpoints have are understood here:

- byte-level BPE: every character of a token stands for one byte, in the alphabet that GPT-2 introduced;
- SentencePiece: U+2581 stands for a space, `<0xNN>` for one byte, and one leading space of the whole text is dropped
  where the tokenizer says so.

Any other decoder is `DecoderKind.OTHER`: a token's text depends on its neighbours there, so only the tokenizers library
can tell it.
"""

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

REPLACEMENT = "\ufffd"
SPACE_MARK = "\u2581"

Piece = str | bytes


class DecoderKind(Enum):
    """How token strings become text."""

    BYTE_LEVEL = auto()
    SENTENCEPIECE = auto()
    OTHER = auto()


@dataclass(frozen=True)
class DecoderSpec:
    """The kind of decoder, and how many leading spaces it strips from the whole text (0 or 1)."""

    kind: DecoderKind
    strip_spaces: int = 0

    @staticmethod
    def parse(decoder_json: bytes | None) -> "DecoderSpec":
        """Recognise the `decoder` part of tokenizer.json (None: the tokenizer has none)."""
        decoder = json.loads(decoder_json) if decoder_json else None
        if not isinstance(decoder, dict):
            return DecoderSpec(DecoderKind.OTHER)
        steps = [_known_step(step) for step in _flatten(decoder)]
        if steps == ["bytes"]:
            return DecoderSpec(DecoderKind.BYTE_LEVEL)
        if steps in (["spaces", "fallback", "fuse"], ["spaces", "fallback"]):
            return DecoderSpec(DecoderKind.SENTENCEPIECE)
        if steps == ["spaces", "fallback", "fuse", "strip"]:
            return DecoderSpec(DecoderKind.SENTENCEPIECE, strip_spaces=1)
        return DecoderSpec(DecoderKind.OTHER)


def _flatten(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [leaf for step in decoder["decoders"] for leaf in _flatten(step)]


def _known_step(step: dict[str, Any]) -> str:
    """The name of a decoder step understood here, or '' for any other."""
    known: dict[str, dict[str, Any]] = {
        "bytes": {"type": "ByteLevel"},
        "spaces": {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        "fallback": {"type": "ByteFallback"},
        "fuse": {"type": "Fuse"},
        "strip": {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    }
    for name, pattern in known.items():
        if all(step.get(key) == value for key, value in pattern.items()):
            return name
    return ""


def byte_alphabet() -> dict[str, int]:
    """Character -> byte of the GPT-2 alphabet: printable Latin-1 stands for itself, the others for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def byte_level_bytes(alphabet: dict[str, int], token: str) -> bytes:
    """Bytes of a byte-level token; one with a character outside the alphabet is an added token and stands as it is."""
    try:
        return bytes(map(alphabet.__getitem__, token))
    except KeyError:
        return token.encode()


def sentencepiece_bytes(token: str) -> bytes:
    """Bytes of a SentencePiece token."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes((int(token[3:5], 16),))
        except ValueError:
            pass
    return token.replace(SPACE_MARK, " ").encode()


class PieceTable(dict[int, Piece]):
    """Token id -> piece, filled on first use: start-up pays nothing for a large vocabulary. Unknown ids give ''."""

    def __init__(self, bytes_of: Callable[[int], bytes | None]) -> None:
        super().__init__()
        self._bytes_of = bytes_of

    def __missing__(self, token_id: int) -> Piece:
        raw = self._bytes_of(token_id)
        if raw is None:
            return ""  # not stored: ids that clients make up must not grow the table
        piece = as_piece(raw)
        self[token_id] = piece
        return piece


def as_piece(raw: bytes) -> Piece:
    """`str` where the bytes are whole characters, else the bytes themselves."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def take_characters(data: bytes, final: bool, each_byte: bool) -> tuple[str, bytes]:
    """Decode as much of `data` as is settled -> (text, bytes of a character still incomplete; none when `final`).

    Invalid bytes become U+FFFD: one for each of them (`each_byte`, as SentencePiece does), or one for each longest
    prefix of a character (as the Unicode Standard recommends, section 3.9, and byte-level decoders do).
    """
    if not each_byte:
        text, used = codecs.utf_8_decode(data, "replace", final)
        return text, data[used:]
    parts = []
    while data:
        try:
            text, used = codecs.utf_8_decode(data, "strict", final)
        except UnicodeDecodeError as error:
            parts.append(data[: error.start].decode() + REPLACEMENT * (error.end - error.start))
            data = data[error.end :]
        else:
            return "".join(parts) + text, data[used:]
    return "".join(parts), b""
