"""A JSON Schema before it is compiled: how large it may be, and where in it a fault lies."""

import math
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from tradewind.base.errors import RequestError

MAX_DEPTH = 64
MAX_SCHEMAS = 5000
MAX_PROPERTIES = 500  # of one object: the cost of building grows with their square
MAX_VALUES = 5000  # of all enums together
MAX_MULTIPLE = 10_000  # the least common one of all: an automaton has as many states
_SEARCH_S = 0.02  # of the thread's own time, in which parts are compiled on their own to find a fault
_SHOWN = 200  # characters of a pointer

_ONE = (
    *("additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems", "contentSchema"),
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")

Place = tuple[str, Any]  # a JSON pointer, and the schema there


def check_bounds(schema: Any, field: str) -> None:
    """Raise RequestError naming the place that is too deep, too large or too costly."""
    values, multiple = 0, 1
    for count, (pointer, part) in enumerate(places(schema)):
        if count >= MAX_SCHEMAS:
            raise _refusal(field, pointer, f"a schema may have at most {MAX_SCHEMAS} parts")
        if pointer.count("/") > 2 * MAX_DEPTH:
            raise _refusal(field, pointer, f"a schema may be at most {MAX_DEPTH} levels deep")
        if not isinstance(part, dict):
            continue
        properties, enum = part.get("properties"), part.get("enum")
        if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
            raise _refusal(field, f"{pointer}/properties", f"an object may have at most {MAX_PROPERTIES} properties")
        values += len(enum) if isinstance(enum, list) else 0
        if values > MAX_VALUES:
            raise _refusal(field, f"{pointer}/enum", f"a schema may have at most {MAX_VALUES} enum values")
        multiple = math.lcm(multiple, _multiple(part.get("multipleOf")))
        if _needs_distinct_keys(part):
            about = "minProperties above 1 is supported only up to the number of required properties"
            raise _refusal(field, f"{pointer}/minProperties", about)
        if multiple > MAX_MULTIPLE:
            about = f"all multipleOf, counted in their last decimal place, may have {MAX_MULTIPLE} as common multiple"
            raise _refusal(field, f"{pointer}/multipleOf", about)


def places(schema: Any, pointer: str = "") -> Iterator[Place]:
    """Every schema within `schema`, parents first, each with its JSON pointer. Stops beyond MAX_DEPTH."""
    stack: list[Place] = [(pointer, schema)]
    while stack:
        pointer, part = stack.pop()
        yield pointer, part
        if isinstance(part, dict) and pointer.count("/") <= 2 * MAX_DEPTH:
            stack.extend(reversed(list(_children(pointer, part))))


def find_fault(schema: Any, fault: str, fault_of: Callable[[Any], str | None]) -> str:
    """The JSON pointer of the innermost part of `schema` that has `fault` on its own, and of its keyword if known.

    `fault_of` compiles a part and says what is wrong with it.
    """
    shared = {name: schema[name] for name in ("$defs", "definitions") if isinstance(schema, dict) and name in schema}
    inside = sorted(places(schema), key=lambda place: -place[0].count("/"))
    end_s = time.thread_time() + _SEARCH_S
    for pointer, part in inside:
        if time.thread_time() > end_s:
            break
        alone = {**shared, **part} if isinstance(part, dict) else part
        if pointer and fault_of(alone) == fault:
            return pointer + _keyword(part, fault)
    return _keyword(schema, fault)


def _keyword(part: Any, fault: str) -> str:
    """The keyword that a message is about, as the last step of a pointer."""
    if not isinstance(part, dict):
        return ""
    quoted = re.findall(r'"([^"]+)"', fault) if fault.startswith("Unimplemented keys") else []
    named = [*quoted, *(key for key in part if re.search(rf"\b{re.escape(key)}\b", fault))]
    named += [key for key, start in _ABOUT.items() if fault.startswith(start)]
    return next((f"/{_escaped(key)}" for key in named if key in part), "")


_ABOUT = {"pattern": "regex parse error", "type": "Invalid type", "format": "Unknown format", "$ref": "Pointer"}


def _children(pointer: str, part: dict[str, Any]) -> Iterator[Place]:
    for name in _ONE:
        if isinstance(part.get(name), dict | bool):
            yield f"{pointer}/{name}", part[name]
    for name in _MANY:
        if isinstance(part.get(name), list):
            yield from ((f"{pointer}/{name}/{index}", child) for index, child in enumerate(part[name]))
    for name in _NAMED:
        if isinstance(part.get(name), dict):
            yield from ((f"{pointer}/{name}/{_escaped(key)}", child) for key, child in part[name].items())


def _escaped(key: str) -> str:
    """RFC 6901."""
    return key.replace("~", "~0").replace("/", "~1")


def _needs_distinct_keys(part: dict[str, Any]) -> bool:
    """Whether it matters that keys differ: a grammar cannot see to that, except for properties that it names."""
    least, required = part.get("minProperties"), part.get("required")
    return isinstance(least, int | float) and least > max(1, len(required) if isinstance(required, list) else 0)


def _multiple(value: Any) -> int:
    """The digits of a number, as a whole number: 0.25 -> 25. 1 for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value:
        return 1
    digits = Decimal(str(value)).as_tuple()
    assert isinstance(digits.exponent, int)
    return int("".join(map(str, digits.digits)) + "0" * min(max(0, digits.exponent), 30))


def _refusal(field: str, pointer: str, why: str) -> RequestError:
    shown = pointer if len(pointer) <= _SHOWN else pointer[:_SHOWN] + "..."
    return RequestError(f"{field}: {why}; see '{shown}'", field=field)
