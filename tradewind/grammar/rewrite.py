"""A JSON Schema in the words that llguidance knows: other keywords are put in terms of those.

What comes out allows nothing that the schema does not. Keywords for which there are no such terms stay as they are, and
llguidance refuses them. Semantics are those of draft 2020-12.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

from tradewind.grammar.disjoint import Disjointness
from tradewind.grammar.negation import Schema, all_of, any_of, negate

_DEEPEST = 64
_MOST_PARTS = 10_000  # of what comes out; beyond it, parts stay as they are
_MOST_LOOKUPS = 1000
_MOST_NEGATED = 4  # options of a `oneOf` that are told apart by what the others do not allow
# Where a schema says what it is called, a copy of it would say it twice, and a reference would mean something else.
_NAMING = ("$id", "$anchor", "$dynamicAnchor", "$dynamicRef")
_ONE = (
    *("additionalProperties", "items", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "additionalItems"),
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")


def rewrite(schema: Any) -> Any:
    """`schema` itself is left as it is."""
    if not isinstance(schema, dict) or _names_itself(schema):
        return schema
    return _Rewriter(schema).of(schema)


def _names_itself(schema: Any, depth: int = 0) -> bool:
    if depth > _DEEPEST:
        return True
    if isinstance(schema, list):
        return any(_names_itself(part, depth + 1) for part in schema)
    if not isinstance(schema, dict):
        return False
    named = _NAMING if depth else _NAMING[1:]  # the name of the whole changes nothing
    return any(name in schema for name in named) or any(_names_itself(part, depth + 1) for part in schema.values())


class _Rewriter:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._disjointness = Disjointness(self._resolve)
        self._parts = self._lookups = 0

    def of(self, schema: Any, depth: int = 0) -> Any:
        """A part of the whole."""
        self._parts += 1
        if not isinstance(schema, dict) or depth > _DEEPEST or self._parts > _MOST_PARTS:
            return schema
        gone: set[str] = set()
        added: list[Schema] = []
        for key, (beside, put) in _TERMS.items():
            if key in schema and (parts := put(self, schema)) is not None:
                gone |= {key, *beside}
                added += [self.of(part, depth + 1) for part in parts if part is not True]
        left = {key: self._inside(key, value, depth + 1) for key, value in schema.items() if key not in gone}
        return {**left, "allOf": [*left.get("allOf", []), *added]} if added else left

    def _inside(self, key: str, value: Any, depth: int) -> Any:
        if key in _ONE:
            return self.of(value, depth)
        if key in _MANY and isinstance(value, list):
            return [self.of(part, depth) for part in value]
        if key in _NAMED and isinstance(value, dict):
            return {name: self.of(part, depth) for name, part in value.items()}
        return value

    def _resolve(self, reference: str) -> Any:
        """What a reference within the schema points at; None for all others."""
        self._lookups += 1
        if (not reference.startswith("#/") and reference != "#") or self._lookups > _MOST_LOOKUPS:
            return None
        found: Any = self._root
        for step in reference.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                return None
        return found

    def _not(self, schema: Any) -> Schema:
        return negate(schema, self._resolve)

    # --- keywords: the schemas that stand for one; None if there are none --------------------------------------------

    def one_of(self, schema: dict[str, Any]) -> list[Schema] | None:
        options = schema["oneOf"]
        if not isinstance(options, list) or not options:
            return None
        if all(self._disjointness.proved(_beside(schema, one), other) for one, other in combinations(options, 2)):
            return [any_of(options)]
        if len(options) > _MOST_NEGATED:
            return None
        negated = [self._not(option) for option in options]
        alone = [
            all_of([option, *(other for at, other in enumerate(negated) if at != index)])
            for index, option in enumerate(options)
        ]
        return None if False in alone else [any_of(alone)]

    def negation(self, schema: dict[str, Any]) -> list[Schema] | None:
        negated = self._not(schema["not"])
        return None if negated is False and schema["not"] is not True else [negated]

    def condition(self, schema: dict[str, Any]) -> list[Schema] | None:
        then, otherwise = schema.get("then", True), schema.get("else", True)
        if then is True and otherwise is True:
            return []
        failing = self._not(schema["if"])
        if failing is False and schema["if"] is not True:
            return None
        return [any_of([all_of([schema["if"], then]), all_of([failing, otherwise])])]

    def dangling(self, schema: dict[str, Any]) -> list[Schema] | None:
        """What means something only beside a keyword that is not there."""
        return None if "if" in schema or "contains" in schema else []

    def dependent_required(self, schema: dict[str, Any]) -> list[Schema] | None:
        asked = schema["dependentRequired"]
        if not isinstance(asked, dict):
            return None
        return [any_of([_without(name), {"required": [name, *names]}]) for name, names in asked.items() if names]

    def dependent_schemas(self, schema: dict[str, Any]) -> list[Schema] | None:
        asked = schema["dependentSchemas"]
        if not isinstance(asked, dict):
            return None
        return [any_of([_without(name), all_of([{"required": [name]}, part])]) for name, part in asked.items()]

    def property_names(self, schema: dict[str, Any]) -> list[Schema] | None:
        asked = schema["propertyNames"]
        if isinstance(asked, bool):
            return [True if asked else {"additionalProperties": False}]
        if not isinstance(asked, dict) or len(asked) != 1:
            return None
        ((key, value),) = asked.items()
        if key == "pattern" and isinstance(value, str):
            return [{"patternProperties": {value: True}, "additionalProperties": False}]
        names = value if key == "enum" else [value] if key == "const" else None
        if not isinstance(names, list):
            return None
        named = {name: True for name in names if isinstance(name, str)}
        return [{"properties": named, "additionalProperties": False}]

    def contains(self, schema: dict[str, Any]) -> list[Schema] | None:
        asked, most = schema["contains"], schema.get("maxContains")
        least = schema.get("minContains", 1)
        if least == 0 and most is None:
            return []
        if asked is not True and asked != {}:
            return None
        bounds = {"minItems": least} if most is None else {"minItems": least, "maxItems": most}
        return [bounds]

    def unique_items(self, schema: dict[str, Any]) -> list[Schema] | None:
        return [] if schema["uniqueItems"] is False or schema.get("maxItems", 2) <= 1 else None

    def unevaluated_properties(self, schema: dict[str, Any]) -> list[Schema] | None:
        rest = schema["unevaluatedProperties"]
        seen = self._evaluated(schema, ("properties", "patternProperties"), "additionalProperties")
        if rest is True or rest == {} or seen == []:
            return []
        if seen is None:
            return None
        named = {name: True for part in seen for name in part.get("properties", {})}
        patterns = {name: True for part in seen for name in part.get("patternProperties", {})}
        added = {"properties": named, "patternProperties": patterns, "additionalProperties": rest}
        return [{key: value for key, value in added.items() if value != {} or key == "additionalProperties"}]

    def unevaluated_items(self, schema: dict[str, Any]) -> list[Schema] | None:
        rest = schema["unevaluatedItems"]
        seen = self._evaluated(schema, ("prefixItems",), "items")
        if rest is True or rest == {} or seen == []:
            return []
        if seen is None or any("contains" in part for part in seen):
            return None
        first = max(len(part.get("prefixItems", [])) for part in seen)
        return [{"prefixItems": [True] * first, "items": rest} if first else {"items": rest}]

    def _evaluated(self, schema: Any, some: tuple[str, ...], whole: str, depth: int = 0) -> list[dict[str, Any]] | None:
        """The schemas that always see to properties or items beside this one: [] if one sees to all that are left.

        None if it depends on the instance who does.
        """
        if isinstance(schema, bool):
            return [{}]
        if not isinstance(schema, dict) or depth > _DEEPEST or any(key in schema for key in _DEPENDING):
            return None
        if whole in schema:
            return []
        inner = list(schema.get("allOf", []))
        if "$ref" in schema:
            inner.append(self._resolve(schema["$ref"]))
        found = [{key: schema[key] for key in (*some, "contains") if key in schema}]
        for part in inner:
            more = self._evaluated(part, some, whole, depth + 1)
            if not more:
                return more
            found += more
        return found


_DEPENDING = ("anyOf", "oneOf", "if", "not", "dependentSchemas")

Put = Callable[[_Rewriter, dict[str, Any]], list[Schema] | None]
# Each keyword, what goes with it, and how it is put otherwise.
_TERMS: dict[str, tuple[tuple[str, ...], Put]] = {
    "unevaluatedProperties": ((), _Rewriter.unevaluated_properties),
    "unevaluatedItems": ((), _Rewriter.unevaluated_items),
    "oneOf": ((), _Rewriter.one_of),
    "not": ((), _Rewriter.negation),
    "if": (("then", "else"), _Rewriter.condition),
    "then": (("else",), _Rewriter.dangling),
    "else": ((), _Rewriter.dangling),
    "minContains": (("maxContains",), _Rewriter.dangling),
    "maxContains": ((), _Rewriter.dangling),
    "dependentRequired": ((), _Rewriter.dependent_required),
    "dependentSchemas": ((), _Rewriter.dependent_schemas),
    "propertyNames": ((), _Rewriter.property_names),
    "contains": (("minContains", "maxContains"), _Rewriter.contains),
    "uniqueItems": ((), _Rewriter.unique_items),
}


def _beside(schema: dict[str, Any], option: Any) -> Schema:
    """An option together with what stands beside the `oneOf`, which holds for it as well."""
    siblings = {key: value for key, value in schema.items() if key not in ("oneOf", "not", "if", "then", "else")}
    return all_of([siblings, option]) if siblings else option


def _without(name: str) -> Schema:
    return {"properties": {name: False}}
