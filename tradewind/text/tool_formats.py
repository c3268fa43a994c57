"""How the families of models write tool calls: to recognise them in an answer, and to oblige a model to make one.

A format is chosen by what the chat template says, so that a checkpoint needs no setting.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class BodyKind(Enum):
    """What a call looks like between its marks."""

    JSON = "json"  # {"name": ..., "arguments": {...}}
    NAMED = "named"  # name[ARGS]{...}, or a list of JSON calls
    HARMONY = "harmony"  # a message to functions.name: see tradewind.text.harmony
    XML = "xml"  # <function=name><parameter=key>value</parameter></function>


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One family's way.

    `opening`: what stands before a call; '' for a call that is the whole answer. `closing`: what may stand after one,
    besides blanks. `arguments`: the key of a JSON call's arguments. `is_special`: the opening is a special token, which
    must not be skipped in the text.
    """

    name: str
    body: BodyKind
    opening: str
    closing: tuple[str, ...] = ()
    arguments: str = "arguments"
    is_special: bool = False


HERMES = ToolFormat("hermes", BodyKind.JSON, "<tool_call>", ("</tool_call>",))
QWEN3_CODER = ToolFormat("qwen3_coder", BodyKind.XML, "<tool_call>", ("</tool_call>",))
MISTRAL = ToolFormat("mistral", BodyKind.NAMED, "[TOOL_CALLS]", (",", "]"), is_special=True)
LLAMA3_JSON = ToolFormat("llama3_json", BodyKind.JSON, "", (";",), arguments="parameters")
HARMONY = ToolFormat("harmony", BodyKind.HARMONY, "", is_special=True)
GENERIC_JSON = ToolFormat("json", BodyKind.JSON, "", (",", "]", ";"))

# What of a template tells a format; the first that is there decides.
_SIGNS = (
    ("<|channel|>", HARMONY),
    ("<function=", QWEN3_CODER),
    ("<tool_call>", HERMES),
    ("[TOOL_CALLS]", MISTRAL),
    ("<|python_tag|>", LLAMA3_JSON),
    ('{"name": function name, "parameters"', LLAMA3_JSON),
)


def format_of(template: str) -> ToolFormat:
    """The format that a chat template teaches; plain JSON for one that knows of no tools."""
    return next((known for sign, known in _SIGNS if sign in template), GENERIC_JSON)


def knows_tools(template: str) -> bool:
    """Whether a chat template writes the tools of a request into the prompt."""
    return "tools" in template


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What to tell a model whose template knows of no tools."""
    described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions:\n{described}\n"
        'To call one, answer with nothing but JSON: {"name": its name, "arguments": {its arguments}}'
    )


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called. `parameters`: the JSON Schema of its arguments, an object."""

    name: str
    parameters: dict[str, Any]
