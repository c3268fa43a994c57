"""Grammars that oblige a model to call a function: of the whole answer, in the model's own format."""

import json
import re
from collections.abc import Sequence
from typing import Any

from tradewind.base.errors import RequestError
from tradewind.grammar.source import HEAD, json_rule, lark_of, schema_of
from tradewind.protocol.sampling import StructuredOutputs
from tradewind.text.harmony import CHANNEL, CONSTRAIN, END, FUNCTIONS, MESSAGE, START
from tradewind.text.tool_formats import BodyKind, Tool, ToolFormat

# A model may reason, in messages of their own, before the one that matters.
_ANALYSIS = f"""analysis: {CHANNEL} "analysis" {MESSAGE} ANYTHING {END} {START} "assistant"
ANYTHING: /(.|\\n)*/"""
_SHARED = ("$defs", "definitions")
_NOTES = {"title", "description", "default", "examples", "$comment"}
_XML_KEYS = {"type", "properties", "required", "additionalProperties", "$schema", "strict", *_SHARED, *_NOTES}
_XML_STRING_KEYS = {"type", "enum", "minLength", "maxLength", *_NOTES}


def forced_grammar(tool_format: ToolFormat, tools: Sequence[Tool], parallel: bool) -> str:
    """A grammar, in Lark's syntax, of answers that are one call of one of `tools`, or (`parallel`) several in a row.

    Raises RequestError(field="tools") for parameters that a format cannot be held to.
    """
    if tool_format.body is BodyKind.HARMONY:
        return _harmony_grammar(tools)
    between, around = '"\\n"', ("", "")
    if tool_format.body is BodyKind.NAMED:
        between, around = '", "', ('"[" ', ' "]"')
    elif not tool_format.opening:
        between = f'"{tool_format.closing[-1]} "'
    rules = [
        f"start: {around[0]}call{f' ({between} call)*' if parallel else ''}{around[1]}",
        f"call: {' | '.join(f'call_{index}' for index in range(len(tools)))}",
    ]
    for index, tool in enumerate(tools):
        rules += _call_rules(tool_format, f"call_{index}", tool)
    return "\n".join(rules)


def _harmony_grammar(tools: Sequence[Tool]) -> str:
    """One call, whatever is asked: the mark after it ends the answer."""
    rules = [f"start: analysis* ({' | '.join(f'call_{index}' for index in range(len(tools)))})", _ANALYSIS]
    for index, tool in enumerate(tools):
        header = f'{CHANNEL} {_literal(f"commentary to={FUNCTIONS}{tool.name} ")} {CONSTRAIN} "json" {MESSAGE}'
        rules.append(f"call_{index}: {header} {json_rule({**tool.parameters, 'type': 'object'})}")
    return "\n".join(rules)


def framed_grammar(asked: StructuredOutputs, field: str) -> str:
    """A grammar of harmony's messages, the last of which is what `asked` says."""
    text = lark_of(asked, schema_of(asked, field), field).removeprefix(HEAD)
    answer = re.sub(r"(?m)^([ \t]*\??)start\b", r"\1answer", text)
    return f'start: analysis* {CHANNEL} "final" {MESSAGE} answer\n{_ANALYSIS}\n{answer}'


def _call_rules(tool_format: ToolFormat, rule: str, tool: Tool) -> list[str]:
    if tool_format.body is BodyKind.XML:
        return _xml_rules(rule, tool)
    before = f'{{"name": {json.dumps(tool.name)}, "{tool_format.arguments}": '
    after = "}"
    if tool_format.body is BodyKind.JSON and tool_format.opening:
        before, after = f"{tool_format.opening}\n{before}", f"{after}\n{tool_format.closing[0]}"
    return [
        f"{rule}: {_literal(before)} {rule}_arguments {_literal(after)}",
        f"{rule}_arguments: {json_rule({**tool.parameters, 'type': 'object'})}",
    ]


def _xml_rules(rule: str, tool: Tool) -> list[str]:
    """Parameters in the schema's order: texts as they are, anything else as JSON."""
    _check_xml(tool)
    properties, required = tool.parameters.get("properties", {}), set(tool.parameters.get("required", ()))
    shared: dict[str, Any] = {key: tool.parameters[key] for key in _SHARED if key in tool.parameters}
    parts, rules = [], []
    for place, (key, schema) in enumerate(properties.items()):
        part = f"{rule}_{place}"
        opening = _literal(f"<parameter={key}>\n")
        rules += [f"{part}: {opening} {part}_value", f"{part}_value{_xml_value(schema, shared)}"]
        parts.append(part if key in required else f"{part}?")
    before = _literal(f"<tool_call>\n<function={tool.name}>\n")
    return [f"{rule}: {before} {' '.join(parts)} {_literal('</function>' + chr(10) + '</tool_call>')}", *rules]


def _xml_value(schema: Any, shared: dict[str, Any]) -> str:
    """The rest of a rule whose value, and the mark after it, these are."""
    end = _literal("\n</parameter>\n")
    if not (isinstance(schema, dict) and schema.get("type") == "string"):
        return f": {json_rule({**shared, **schema} if isinstance(schema, dict) else schema)} {end}"
    if "enum" in schema:
        return f": ({' | '.join(map(_literal, schema['enum']))}) {end}"
    lengths = f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"
    return f"[lazy]: /(.|\\n){lengths}\\n<\\/parameter>\\n/"


def _check_xml(tool: Tool) -> None:
    """Raise RequestError for what JSON could be held to, but parameters one by one cannot."""
    schema, known = tool.parameters, tool.parameters.get("properties", {})
    odd = [
        *(schema.keys() - _XML_KEYS),
        *(f"required {key!r}" for key in schema.get("required", ()) if key not in known),
    ]
    for key, value in known.items():
        if isinstance(value, dict) and value.get("type") == "string":
            odd += [f"{name} of {key!r}" for name in value.keys() - _XML_STRING_KEYS]
    if odd:
        message = f"this model's format of calls cannot be held to {odd[0]} in the parameters of {tool.name!r}"
        raise RequestError(message, field="tools")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
