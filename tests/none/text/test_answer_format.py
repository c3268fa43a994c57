"""What the end of a prompt tells of the answer to it."""

import re
from typing import cast

import pytest

from tradewind.text.answer_format import AnswerFormat
from tradewind.text.tokenizer import Tokenizer

MARKS = ("<think>", "</think>")
SPECIAL = ("<|user|>", "<|assistant|>", "<|end|>")


class MarkedTokenizer:
    """Special tokens and marks have ids of their own, everything else one for each character."""

    special_ids = frozenset(range(2, 5))

    def id_of(self, token: str) -> int | None:
        return MARKS.index(token) if token in MARKS else None

    def encode(self, text: str) -> list[int]:
        known = [*MARKS, *SPECIAL]
        parts = re.split(f"({'|'.join(map(re.escape, known))})", text)
        return [
            token
            for part in parts
            for token in ([known.index(part)] if part in known else [ord(character) for character in part])
        ]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        assert not skip_special_tokens
        return "".join([*MARKS, *SPECIAL][token] if token < 5 else chr(token) for token in ids)


class UnmarkedTokenizer(MarkedTokenizer):
    """The marks are text."""

    def id_of(self, token: str) -> int | None:
        return None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", (MARKS, False)),
        ("<think>\n", (MARKS, True)),
        ("<think>\n\n</think>\n\n", (None, False)),
        ("<think>\nThe user greets me, so I will think about that", (MARKS, True)),
        ("<think>\nHm.</think>\n\nThe answer to what you have asked", (MARKS, False)),
        ("The answer to what you have asked", (MARKS, False)),
    ],
)
@pytest.mark.parametrize("asked", ["Hi", "What does <think> mean?", "<think>Hm.</think> I mean, <think>"])
def test_whether_a_prompt_begins_or_ends_reasoning(
    asked: str, answer: str, expected: tuple[tuple[str, str] | None, bool]
) -> None:
    tokenizer = cast(Tokenizer, MarkedTokenizer())
    prompt = tokenizer.encode(f"<|user|>{asked}<|assistant|>{answer}")
    assert AnswerFormat.of("<think></think>").reasoning_after(prompt, tokenizer) == expected


def test_without_tokens_for_the_marks_only_the_very_end_tells() -> None:
    tokenizer, form = cast(Tokenizer, UnmarkedTokenizer()), AnswerFormat.of("<think></think>")
    for end, begun in (("<think>", True), ("<think>The user greets me, so I will", False)):
        assert form.reasoning_after(tokenizer.encode(f"<|assistant|>{end}"), tokenizer) == (MARKS, begun)
