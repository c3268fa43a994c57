"""Whether two JSON Schemas have no instance in common: proved, or not known."""

from typing import Any

from tradewind.grammar.negation import TYPES, Resolve, type_of, types_in

_MOST_STEPS = 8000
_DEEPEST = 12


class Disjointness:
    """Proves within a bound of steps; beyond it, nothing is proved any more."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._steps = 0

    def proved(self, one: Any, other: Any, depth: int = 0) -> bool:
        """Whether no value is valid under both."""
        self._steps += 1
        if self._steps > _MOST_STEPS or depth > _DEEPEST:
            return False
        if one is False or other is False:
            return True
        parts, others = self._conjuncts(one), self._conjuncts(other)
        shared = _types(parts) & _types(others)
        if all(_apart(name, parts, others) or self._objects_apart(name, parts, others, depth) for name in shared):
            return True
        # A choice is apart from something if all its options are, together with what stands beside it.
        return self._options_apart(parts, other, depth) or self._options_apart(others, one, depth)

    def _options_apart(self, parts: list[dict[str, Any]], other: Any, depth: int) -> bool:
        choices = [part[key] for part in parts for key in ("anyOf", "oneOf") if isinstance(part.get(key), list)]
        return any(choice and all(self.proved(one, other, depth + 1) for one in choice) for choice in choices)

    def _conjuncts(self, schema: Any, depth: int = 0) -> list[dict[str, Any]]:
        """Schemas that an instance must all satisfy: `schema`, and what is in its `allOf` and behind its `$ref`."""
        self._steps += 1
        if not isinstance(schema, dict) or depth > _DEEPEST or self._steps > _MOST_STEPS:
            return []
        more = schema["allOf"] if isinstance(schema.get("allOf"), list) else []
        if isinstance(schema.get("$ref"), str):
            more = [*more, self._resolve(schema["$ref"])]
        return [schema, *(part for one in more for part in self._conjuncts(one, depth + 1))]

    def _objects_apart(self, name: str, parts: Any, others: Any, depth: int) -> bool:
        """Whether a property that must be there cannot be the same in both."""
        if name != "object":
            return False
        keys = {key for part in (*parts, *others) for key in _list(part, "required") if isinstance(key, str)}
        return any(
            self.proved(one, two, depth + 1)
            for key in sorted(keys)
            for one in (True, *_property(parts, key))
            for two in (True, *_property(others, key))
            if one is not two
        )


def _types(parts: list[dict[str, Any]]) -> set[str]:
    """The types that an instance may have."""
    left = set(TYPES)
    for part in parts:
        if "type" in part:
            left &= types_in(part["type"])
        values = _values(part)
        if values is not None:
            left &= {type_of(value) for value in values}
    return left


def _values(part: dict[str, Any]) -> list[Any] | None:
    """The only values that a schema allows, if it lists them."""
    if "const" in part:
        return [part["const"]]
    return part["enum"] if isinstance(part.get("enum"), list) else None


def _apart(name: str, parts: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Whether no value of this type satisfies both: by the values that are listed, or by bounds."""
    listed = [values for part in parts if (values := _values(part)) is not None]
    listed_there = [values for part in others if (values := _values(part)) is not None]
    for values in listed:
        for values_there in listed_there:
            mine = [value for value in values if type_of(value) == name]
            if not any(_same(value, there) for value in mine for there in values_there):
                return True
    low, high = _BOUNDS.get(name, ((), ()))
    return _crossed(parts, others, low, high) or _crossed(others, parts, low, high)


_BOUNDS = {
    "number": (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")),
    "string": (("minLength",), ("maxLength",)),
    "array": (("minItems",), ("maxItems",)),
    "object": (("minProperties",), ("maxProperties",)),
}


def _crossed(parts: Any, others: Any, low: tuple[str, ...], high: tuple[str, ...]) -> bool:
    """Whether what one allows lies above all that the other allows."""
    for low_key, least in _numbers(parts, low):
        for high_key, most in _numbers(others, high):
            if least > most or (least == most and (low_key.startswith("excl") or high_key.startswith("excl"))):
                return True
    return False


def _numbers(parts: list[dict[str, Any]], keys: tuple[str, ...]) -> list[tuple[str, float]]:
    found = [(key, part[key]) for part in parts for key in keys if key in part]
    return [(key, value) for key, value in found if isinstance(value, int | float) and not isinstance(value, bool)]


def _same(one: Any, other: Any) -> bool:
    """Whether they might be equal as JSON; lists and objects are taken to be."""
    if type_of(one) != type_of(other):
        return False
    return isinstance(one, dict | list) or bool(one == other)


def _property(parts: list[dict[str, Any]], key: str) -> list[Any]:
    """The schemas that the value of this property has to satisfy."""
    found: list[Any] = []
    for part in parts:
        named = part.get("properties")
        if isinstance(named, dict) and key in named:
            found.append(named[key])
        elif "additionalProperties" in part and "patternProperties" not in part:
            found.append(part["additionalProperties"])
    return found


def _list(part: dict[str, Any], key: str) -> list[Any]:
    return part[key] if isinstance(part.get(key), list) else []
