"""What a JSON Schema does not allow, as a schema: never more than that, and less where schemas have no words for it."""

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

Schema = dict[str, Any] | bool
Resolve = Callable[[str], Any]  # what a `$ref` stands for; None if it is not to be found

TYPES = ("null", "boolean", "object", "array", "number", "string")
_DEEPEST = 16


def negate(schema: Any, resolve: Resolve, depth: int = 0) -> Schema:
    """A schema whose instances are all invalid under `schema`. False where there is nothing to be said.

    `schema` may be anything that JSON can hold: what is no schema has no negation.
    """
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return False

    def inner(part: Any) -> Schema:
        return negate(part, resolve, depth + 1)

    options = [option for key, value in schema.items() for option in _negate_keyword(key, value, inner)]
    if isinstance(schema.get("$ref"), str):
        options.append(inner(resolve(schema["$ref"])))
    return any_of(options)


def any_of(options: Iterable[Schema]) -> Schema:
    """Valid under one of these at least."""
    left = [option for option in options if option is not False]
    if True in left:
        return True
    if len(left) == 1:
        return left[0]
    return {"anyOf": left} if left else False


def all_of(parts: Iterable[Schema]) -> Schema:
    """Valid under all of these."""
    left = [part for part in parts if part is not True]
    if False in left:
        return False
    if len(left) == 1:
        return left[0]
    return {"allOf": left} if left else True


def type_of(value: Any) -> str:
    """The type of a JSON value; `number` for integers, too."""
    if isinstance(value, bool):
        return "boolean"
    named = {type(None): "null", dict: "object", list: "array", str: "string", int: "number", float: "number"}
    return named[type(value)]


def types_in(value: Any) -> set[str]:
    """Those of TYPES that a `type` keyword speaks of: `integer` is among the numbers."""
    names = value if isinstance(value, list) else [value]
    return {"number" if name == "integer" else name for name in names if isinstance(name, str)}


def _negate_keyword(key: str, value: Any, inner: Callable[[Any], Schema]) -> list[Schema]:
    """Schemas, each of which contradicts the keyword."""
    if key in _BOUNDS and isinstance(value, int | float) and not isinstance(value, bool):
        kind, opposite, step = _BOUNDS[key]
        return [{"type": kind, opposite: value + step}] if step == 0 or value + step >= 0 else []
    if key == "type":
        return [{"type": [name for name in TYPES if name not in types_in(value)]}]
    if key == "const":
        return _other_than([value])
    if key == "enum" and isinstance(value, list):
        return _other_than(value)
    if key == "not":
        return [value]
    if key in ("allOf", "anyOf") and isinstance(value, list):
        negated = [inner(part) for part in value]
        return negated if key == "allOf" else [all_of(negated)]
    if key == "required" and isinstance(value, list):
        return [{"type": "object", "properties": {name: False}} for name in value if isinstance(name, str)]
    if key == "properties" and isinstance(value, dict):
        negated_by_name = {name: inner(part) for name, part in value.items()}
        return [
            {"type": "object", "properties": {name: part}, "required": [name]}
            for name, part in negated_by_name.items()
            if part is not False
        ]
    return []


# What contradicts a bound: the type it is about, the bound on the other side, and how far that is away.
_BOUNDS = {
    "minimum": ("number", "exclusiveMaximum", 0),
    "maximum": ("number", "exclusiveMinimum", 0),
    "exclusiveMinimum": ("number", "maximum", 0),
    "exclusiveMaximum": ("number", "minimum", 0),
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}


def _other_than(values: list[Any]) -> list[Schema]:
    """Values of other types, and of the same types where that can be said."""
    by_type: dict[str, list[Any]] = {}
    for value in values:
        by_type.setdefault(type_of(value), []).append(value)
    options: list[Schema] = [{"type": [name for name in TYPES if name not in by_type]}]
    if "string" in by_type:
        options.append({"type": "string", "pattern": f"^{_other_text(by_type['string'])}$"})
    if "boolean" in by_type:
        options += [{"const": other} for other in (True, False) if other not in by_type["boolean"]]
    if "number" in by_type:
        edges = sorted(set(by_type["number"]))
        options += [{"type": "number", "exclusiveMaximum": edges[0]}, {"type": "number", "exclusiveMinimum": edges[-1]}]
        options += [
            {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in pairwise(edges)
        ]
    return options


def _other_text(texts: list[str]) -> str:
    """A regex of all texts but these: letter by letter, what begins like one of them and goes on otherwise."""
    nexts: dict[str, list[str]] = {}
    for text in texts:
        if text:
            nexts.setdefault(text[0], []).append(text[1:])
    ends = [] if "" in texts else [""]
    if not nexts:
        return _group([*ends, r"[\s\S]+"])
    other = f"[^{''.join(re.escape(letter) for letter in sorted(nexts))}]" + r"[\s\S]*"
    return _group([*ends, other, *(re.escape(letter) + _other_text(rest) for letter, rest in sorted(nexts.items()))])


def _group(options: list[str]) -> str:
    return f"({'|'.join(options)})"
