"""The tokenizer of a checkpoint: text to token ids and back, over the `tokenizers` library."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tradewind.base.errors import CheckpointError, RequestError
from tradewind.text.detokenizer import Detokenizer
from tradewind.text.files import read_bytes, read_text
from tradewind.text.pieces import (
    DecoderKind,
    DecoderSpec,
    PieceTable,
    byte_alphabet,
    byte_level_bytes,
    sentencepiece_bytes,
)
from tradewind.text.tokenizer_config import TokenizerConfig

if TYPE_CHECKING:
    from tradewind.text.chat_template import ChatTemplate

_FILE = "tokenizer.json"
_MAX_TOKEN_ID = 2**32 - 1  # the library's ids are 32 bits wide, unsigned
LONG_CHARS = 8192
"""Longer texts are best encoded in a thread of their own: the library then leaves Python to the others."""


class Tokenizer:
    """Text to token ids and back. Safe to share between threads."""

    def __init__(self, library: Any, config: TokenizerConfig, chat_template: "ChatTemplate | None" = None) -> None:
        """`library` is a tokenizers.Tokenizer, owned from here on; `load` is the usual way to make one."""
        library.no_truncation()
        library.no_padding()
        _add_missing_tokens(library, config)
        self._library = library
        self.chat_template = chat_template
        self.bos_token = config.special_tokens.get("bos_token")
        self.eos_token = config.special_tokens.get("eos_token")
        self.bos_token_id = self.id_of(self.bos_token)
        self.eos_token_id = self.id_of(self.eos_token)
        added = library.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.vocab_size = max(library.get_vocab_size(), *(token_id + 1 for token_id in added), 0)
        decoder = library.decoder
        self.decoder = DecoderSpec.parse(decoder.__getstate__() if decoder is not None else None)
        self._alphabet = byte_alphabet()
        self._pieces = PieceTable(self._known_bytes)
        self._visible_pieces = PieceTable(self._visible_bytes)
        self._adds_bos = config.add_bos_token and self.bos_token_id is not None

    @classmethod
    def load(cls, directory: Path, chat_template: Path | None = None) -> "Tokenizer":
        """Read tokenizer.json and the files beside it.

        `chat_template` is a file with a Jinja template to use in place of the checkpoint's own. Raises CheckpointError
        naming the file that is missing or malformed.
        """
        config = TokenizerConfig.load(directory)
        library = _load_library(directory / _FILE)
        return cls(library, config, _load_template(config, chat_template))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Special tokens written in the text are recognised.

        `add_special_tokens` adds what the tokenizer puts around a text: usually BOS, where the model has one. Raises
        RequestError for text that is not Unicode (lone surrogates).
        """
        try:
            if len(text) >= LONG_CHARS:
                return self.encode_batch([text], add_special_tokens)[0]
            ids: list[int] = self._library.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError:
            raise _not_unicode(text) from None
        return self._with_bos(ids) if add_special_tokens else ids

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        """As `encode`, for several texts at once, on several threads; those of Python can go on meanwhile."""
        try:
            encodings = self._library.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        except TypeError:
            raise _not_unicode(*texts) from None
        if not add_special_tokens:
            return [encoding.ids for encoding in encodings]
        return [self._with_bos(encoding.ids) for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Ids that the tokenizer does not know have no text; invalid bytes become U+FFFD.

        Equal to the library's own answer with one exception: where SentencePiece bytes are in part invalid, the valid
        characters among them are kept (the library drops the whole run), so that a stream may give them out at once.
        """
        if self.decoder.kind is DecoderKind.OTHER:
            return self.decode_by_library(ids, skip_special_tokens)
        detokenizer = Detokenizer(self, (), skip_special_tokens)
        return "".join(map(detokenizer.push, ids)) + detokenizer.flush()

    def decode_by_library(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of `ids` by the tokenizers library; slower than `decode`, and right for every decoder."""
        hidden = self.special_ids if skip_special_tokens else frozenset()
        known = [token_id for token_id in ids if 0 <= token_id <= _MAX_TOKEN_ID and token_id not in hidden]
        text: str = self._library.decode(known, skip_special_tokens=False)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds in the middle of a text; none for an unknown id."""
        piece = self._pieces[token_id]
        return piece if isinstance(piece, bytes) else piece.encode()

    def token_text(self, token_id: int) -> str:
        """The token's text, with U+FFFD where it is not whole characters."""
        piece = self._pieces[token_id]
        return piece if isinstance(piece, str) else piece.decode("utf-8", "replace")

    def pieces(self, skip_special_tokens: bool) -> PieceTable:
        """Token id -> what it adds to the text; special tokens add nothing where they are skipped."""
        return self._visible_pieces if skip_special_tokens else self._pieces

    def id_of(self, token: str | None) -> int | None:
        """The id of a token that is written like this, if there is one."""
        if token is None:
            return None
        token_id: int | None = self._library.token_to_id(token)
        return token_id

    def _with_bos(self, ids: list[int]) -> list[int]:
        if not self._adds_bos or self.bos_token_id is None or ids[:1] == [self.bos_token_id]:
            return ids
        return [self.bos_token_id, *ids]

    def _visible_bytes(self, token_id: int) -> bytes | None:
        return b"" if token_id in self.special_ids else self._known_bytes(token_id)

    def _known_bytes(self, token_id: int) -> bytes | None:
        token = self._library.id_to_token(token_id) if 0 <= token_id <= _MAX_TOKEN_ID else None
        if token is None:
            return None
        if self.decoder.kind is DecoderKind.BYTE_LEVEL:
            return byte_level_bytes(self._alphabet, token)
        if self.decoder.kind is DecoderKind.SENTENCEPIECE:
            return sentencepiece_bytes(token)
        return self._bytes_by_library(token_id)

    def _bytes_by_library(self, token_id: int) -> bytes:
        """Decoded after itself, so that rules for the start of a text do not apply."""
        alone: str = self._library.decode([token_id], skip_special_tokens=False)
        twice: str = self._library.decode([token_id, token_id], skip_special_tokens=False)
        return (twice.removeprefix(alone) or alone).encode()


def _load_library(path: Path) -> Any:
    import tokenizers  # here, because it costs 50 ms and the API's modules are imported before it is needed

    source = read_bytes(path)
    try:
        return tokenizers.Tokenizer.from_buffer(source)
    except Exception as error:  # the library raises nothing more precise
        raise CheckpointError(f"{path} is not a valid tokenizer: {error}", field=path.name) from error


def _load_template(config: TokenizerConfig, override: Path | None) -> "ChatTemplate | None":
    templates = {"default": read_text(override)} if override is not None else config.templates
    if not templates:
        return None
    from tradewind.text.chat_template import ChatTemplate  # here, because jinja2 costs 90 ms

    source = templates.get("default") or next(iter(templates.values()))
    specials: dict[str, Any] = {**config.special_tokens}
    if config.extra_special_tokens:
        specials["additional_special_tokens"] = list(config.extra_special_tokens)
    return ChatTemplate(source, specials, tools_source=templates.get("tool_use"))


def _add_missing_tokens(library: Any, config: TokenizerConfig) -> None:
    """Tokens that only the files beside tokenizer.json name, or name as special."""
    from tokenizers import AddedToken

    for token in config.added_tokens:
        known_id = library.token_to_id(token.content)
        if known_id is None:
            flags = {"normalized": False, **token.flags}
            add = library.add_special_tokens if flags.get("special") else library.add_tokens
            add([AddedToken(token.content, **flags)])
            known_id = library.token_to_id(token.content)
        if known_id != token.token_id:
            message = f"tokenizer_config.json gives {token.content!r} the id {token.token_id}, {_FILE} {known_id}"
            raise CheckpointError(message, field="tokenizer_config.json")
    known_special = {token.content for token in library.get_added_tokens_decoder().values() if token.special}
    named = [*config.special_tokens.values(), *config.extra_special_tokens]
    named += [token.content for token in config.added_tokens if token.flags.get("special")]
    for content in dict.fromkeys(named):
        if content not in known_special and library.token_to_id(content) is not None:
            library.add_special_tokens([AddedToken(content, special=True, normalized=False)])


def _not_unicode(*texts: str) -> RequestError:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"U+{ord(text[error.start]):04X} at character {error.start}"
            return RequestError(f"the text is not valid Unicode: lone surrogate {found}", field="prompt")
        except AttributeError:
            break
    return RequestError("the prompt must be text", field="prompt")
