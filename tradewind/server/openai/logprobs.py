"""Log probabilities in OpenAI's two shapes, and vLLM's prompt_logprobs."""

from typing import TYPE_CHECKING, Any

from tradewind.protocol.result import TokenLogprobs

if TYPE_CHECKING:
    from tradewind.text.tokenizer import Tokenizer

LOWEST = -9999.0  # JSON has no infinity


class TokenNames:
    """How token ids are shown: their text, or vLLM's `token_id:N`."""

    def __init__(self, tokenizer: "Tokenizer", as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def name(self, token: int) -> str:
        """For people and programs; half characters are shown as U+FFFD."""
        return f"token_id:{token}" if self._as_ids else self.text(token)

    def text(self, token: int) -> str:
        """The token's text."""
        return self._tokenizer.token_text(token)

    def raw(self, token: int) -> list[int]:
        """The token's bytes."""
        return list(self._tokenizer.token_bytes(token))


def chat_logprobs(positions: list[TokenLogprobs], top: int, names: TokenNames) -> dict[str, Any]:
    """`{"content": [{token, logprob, bytes, top_logprobs}], "refusal": null}`."""
    return {"content": [_chat_position(position, top, names) for position in positions], "refusal": None}


def _chat_position(position: TokenLogprobs, top: int, names: TokenNames) -> dict[str, Any]:
    entries = [
        {"token": names.name(token), "logprob": max(logprob, LOWEST), "bytes": names.raw(token)}
        for token, logprob in zip(position.token_ids[: top + 1], position.logprobs, strict=False)
    ]
    return {**entries[0], "top_logprobs": entries[1:]}


class CompletionLogprobs:
    """The parallel lists of `/v1/completions`, for one choice; `text_offset` goes on from piece to piece."""

    def __init__(self, names: TokenNames, top: int, offset: int = 0) -> None:
        self._names = names
        self._top = top
        self._offset = offset

    def piece(self, positions: list[TokenLogprobs]) -> dict[str, Any]:
        """The lists for the next tokens."""
        return self._lists([(position.token_ids[0], position) for position in positions])

    def prompt_piece(self, tokens: list[int], positions: list[TokenLogprobs | None]) -> dict[str, Any]:
        """The lists for an echoed prompt; its first token has no probability."""
        return self._lists(list(zip(tokens, positions, strict=True)))

    def _lists(self, tokens: list[tuple[int, TokenLogprobs | None]]) -> dict[str, Any]:
        offsets = []
        for token, _ in tokens:
            offsets.append(self._offset)
            self._offset += len(self._names.text(token))
        return {
            "text_offset": offsets,
            "token_logprobs": [None if at is None else max(at.logprobs[0], LOWEST) for _, at in tokens],
            "tokens": [self._names.name(token) for token, _ in tokens],
            "top_logprobs": [None if at is None else self._top_of(at) for _, at in tokens],
        }

    def _top_of(self, position: TokenLogprobs) -> dict[str, float]:
        entries = zip(position.token_ids[: self._top + 1], position.logprobs, strict=False)
        top: dict[str, float] = {}
        for token, logprob in entries:
            top.setdefault(self._names.name(token), max(logprob, LOWEST))
        return top


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two pieces of completion logprobs, one after the other."""
    return {name: first[name] + second[name] for name in first}


def prompt_logprobs(positions: list[TokenLogprobs | None], names: TokenNames) -> list[dict[str, Any] | None]:
    """vLLM's shape: per position, token id -> {logprob, rank, decoded_token}; null for the first."""
    return [None if position is None else _ranked(position, names) for position in positions]


def _ranked(position: TokenLogprobs, names: TokenNames) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for place, (token, logprob) in enumerate(zip(position.token_ids, position.logprobs, strict=True)):
        rank = position.rank if place == 0 else place
        shown = {"logprob": max(logprob, LOWEST), "rank": rank, "decoded_token": names.text(token)}
        entries.setdefault(str(token), shown)
    return entries
