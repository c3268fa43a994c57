"""The text of a grammar: Lark's syntax, with `%json` for a schema."""

import json
import re
from typing import Any

import llguidance
import msgspec
from llguidance.gbnf_to_lark import any_to_lark

from tradewind.base.errors import RequestError
from tradewind.grammar.rewrite import rewrite
from tradewind.protocol.sampling import StructuredOutputs

MAX_CHOICES = 4000
_MAX_GBNF_CHARS = 2**15  # it is rewritten by a program of many small steps
# Which tokens spell a forced text is the model's choice, as for any other text.
HEAD = '%llguidance {"no_forcing": true}\n'
# A blank, or a line break and an indentation: a model that is not sure what follows must not get lost in blanks.
SPACES = r"( |\r?\n[ \t]{0,20})"

_LARK = re.compile(r"^[ \t]*\??start\b[^\n:]*:(?!:)", re.MULTILINE)  # its first rule; GBNF writes root ::=

Schema = dict[str, Any] | bool


def schema_of(asked: StructuredOutputs, field: str) -> Schema | None:
    """The JSON Schema that is asked for, decoded. Raises RequestError if it is none."""
    if asked.json_object:
        return {"type": "object"}
    schema: Any = asked.json
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            raise RequestError(f"{field}.json is not JSON: {error}", field=field) from None
    if schema is None and asked.json is None:
        return None
    if not isinstance(schema, dict | bool):
        raise RequestError(f"{field}.json must be a JSON Schema: an object, true or false", field=field)
    return schema


def lark_of(asked: StructuredOutputs, schema: Schema | None, field: str) -> str:
    """The grammar. `schema`: what `schema_of` gave, or a part of it. Raises RequestError."""
    if schema is not None:
        return f"{HEAD}start: {json_rule(schema, asked)}"
    if asked.regex is not None:
        return HEAD + _regex_rule(asked.regex)
    if asked.choice is not None:
        return f"{HEAD}start: {' | '.join(_literals(asked.choice, field))}"
    assert asked.grammar is not None
    if _LARK.search(asked.grammar):
        return HEAD + asked.grammar
    if len(asked.grammar) > _MAX_GBNF_CHARS:
        message = f"{field}.grammar has {len(asked.grammar)} characters; in GBNF at most {_MAX_GBNF_CHARS} are allowed"
        raise RequestError(message, field=field)
    try:
        return HEAD + any_to_lark(asked.grammar)
    except Exception as error:  # noqa: BLE001 - a converter of somebody else's, fed by anybody
        raise RequestError(f"{field}.grammar is neither Lark nor GBNF: {error}", field=field) from None


def json_rule(schema: Schema, asked: StructuredOutputs | None = None) -> str:
    """What stands for the JSON texts of a schema in a rule. `asked` may say something about spaces."""
    return f"%json {json.dumps(_with_spaces(rewrite(schema), asked or StructuredOutputs()))}"


def _with_spaces(schema: Schema, asked: StructuredOutputs) -> dict[str, Any]:
    options: dict[str, Any] = {"whitespace_pattern": asked.whitespace_pattern or SPACES}
    if asked.disable_any_whitespace:
        options = {"whitespace_flexible": False}
    # A schema of its own may not set them: they can also make llguidance ignore what it does not support.
    return {**(schema if isinstance(schema, dict) else {"allOf": [schema]}), "x-guidance": options}


def _regex_rule(regex: str) -> str:
    rule: str = json.loads(llguidance.LLMatcher.grammar_from_regex(regex))["grammars"][0]["lark_grammar"]
    return rule


def _literals(choices: list[str], field: str) -> list[str]:
    if not choices or len(choices) > MAX_CHOICES:
        message = f"{field}.choice must have between 1 and {MAX_CHOICES} texts, not {len(choices)}"
        raise RequestError(message, field=field)
    return [json.dumps(choice, ensure_ascii=False) for choice in choices]
