"""From what a request asks its answer to be to the text of a grammar, checked and bounded."""

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

import llguidance
import msgspec

from tradewind.base.errors import RequestError
from tradewind.grammar.json_schema import check_bounds, find_fault
from tradewind.grammar.source import HEAD, lark_of, schema_of
from tradewind.grammar.special import check_special
from tradewind.protocol.sampling import StructuredOutputs

MAX_SOURCE_BYTES = 2**18
_KEPT_BYTES = 2**24  # of compiled texts
_NAMES = ("json", "json_object", "regex", "choice", "grammar")


def new_limits() -> llguidance.LLParserLimits:
    """What one grammar may cost, in llguidance's own units: some 20 ms to build, and as much for a token's mask."""
    return llguidance.LLParserLimits(
        max_grammar_size=100_000,
        max_lexer_states=100_000,
        step_max_items=20_000,
        step_lexer_fuel=100_000,
        verbose_errors=False,
    )


class _Bytes:
    """Bare bytes, an end and special tokens, in the shape that llguidance asks for."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256

    def __init__(self, special_tokens: Sequence[str]) -> None:
        named = [token.encode() for token in special_tokens]
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<eos>", *named]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, _text: str) -> list[int]:
        """Nothing is ever tokenised."""
        return []


class Compiler:
    """Compiles, and remembers what it compiled lately. Safe to share between threads.

    A compilation takes a millisecond or a few as a rule, and some 100 ms at most.
    """

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        """`special_tokens`: those of the model that a grammar may name."""
        self._special_tokens = tuple(special_tokens)
        self._bytes_alone = llguidance.LLTokenizer(_Bytes(special_tokens), eos_token=[256])  # type: ignore[arg-type]
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def compile(self, asked: StructuredOutputs, field: str = "structured_outputs") -> str:
        """The grammar's text.

        Raises RequestError with `field` for what is malformed, too large, unsupported or impossible to satisfy; for a
        JSON Schema the message names the place in it by its JSON pointer.
        """
        try:
            key = msgspec.json.encode(msgspec.structs.replace(asked, reasoning_begin=None, reasoning_end=None))
        except RecursionError:
            raise RequestError(f"{field} is nested too deeply", field=field) from None
        if len(key) > MAX_SOURCE_BYTES:
            message = f"{field} is {len(key)} bytes long; at most {MAX_SOURCE_BYTES} are allowed"
            raise RequestError(message, field=field)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        text = self._compile(asked, field)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = text
                self._kept_bytes += len(key) + len(text)
            while self._kept_bytes > _KEPT_BYTES:
                old_key, old_text = self._kept.popitem(last=False)
                self._kept_bytes -= len(old_key) + len(old_text)
        return text

    def _compile(self, asked: StructuredOutputs, field: str) -> str:
        given = [name for name in _NAMES if getattr(asked, name) not in (None, False) or _is_false_schema(asked, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise RequestError(f"{field} must set one of {', '.join(_NAMES)}, not {found}", field=field)
        schema = schema_of(asked, field)
        if schema is not None:
            check_bounds(schema, field)
        text = lark_of(asked, schema, field)
        if asked.grammar is not None:
            check_special(text, self._special_tokens, field)
        fault = self._fault(text)
        if fault is None:
            return text
        if schema is None:
            is_theirs = asked.grammar is not None and text.endswith(asked.grammar)  # GBNF is rewritten
            fault = _PLACE.sub(_place if is_theirs else "", fault)
            raise RequestError(f"{field}.{given[0]}: {fault}", field=field)
        pointer = find_fault(schema, fault, lambda part: self._fault(lark_of(asked, part, field)))
        raise RequestError(f"{field}: the schema is not supported at '{pointer}': {fault}", field=field)

    def _fault(self, text: str) -> str | None:
        """What is wrong with a grammar, if anything: it is built and asked for its first mask, over bare bytes."""
        matcher = llguidance.LLMatcher(self._bytes_alone, text, log_level=0, limits=new_limits())
        if not matcher.is_error():
            matcher.compute_bitmask()
        return _sentence(matcher.get_error()) if matcher.is_error() else None


def _is_false_schema(asked: StructuredOutputs, name: str) -> bool:
    return name == "json" and asked.json is False


def _sentence(error: str) -> str:
    """llguidance's message without its place in a text that nobody but us has seen."""
    _, found, rest = error.partition("failed to compile JSON schema: ")
    text = rest if found else error
    text = text.replace("<non-verbose/>", "").partition("\n   1 |")[0].strip()
    text = next((ours for start, ours in _OUR_WORDS.items() if text.startswith(start)), text)
    return text if len(text) <= 400 else text[:397] + "..."


_PLACE = re.compile(r"^(?:at )?(\d+)\((\d+)\): ")


def _place(found: "re.Match[str]") -> str:
    """In the grammar as it was sent: without the line that is ours."""
    return f"line {int(found[1]) - HEAD.count(chr(10))}, column {found[2]}: "


_OUR_WORDS = {
    "NoExtension": "nothing satisfies it",
    "oneOf constraints are not supported": "oneOf needs options that can be shown to exclude each other",
}
