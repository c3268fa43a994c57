"""Keywords put in terms of others: what comes out allows nothing that the schema does not, and still what it should."""

import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradewind.grammar.disjoint import Disjointness
from tradewind.grammar.negation import negate
from tradewind.grammar.rewrite import rewrite

NAMES = st.sampled_from(["a", "b", "kind"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([0.5, 1.0, 2.5]),
    st.sampled_from(["", "a", "ab", "b"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)
TYPE_NAMES = st.sampled_from(["null", "boolean", "object", "array", "number", "integer", "string"])


def keywords(inner: st.SearchStrategy[Any]) -> dict[str, st.SearchStrategy[Any]]:
    counts, some = st.integers(0, 3), st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=2)
    return {
        "type": TYPE_NAMES | st.lists(TYPE_NAMES, min_size=1, max_size=2, unique=True),
        "const": VALUES,
        "enum": st.lists(VALUES, min_size=1, max_size=3),
        "minimum": counts,
        "exclusiveMinimum": counts,
        "maximum": counts,
        "exclusiveMaximum": counts,
        "minLength": counts,
        "maxLength": counts,
        "minItems": counts,
        "maxItems": counts,
        "uniqueItems": st.booleans(),
        "required": st.lists(NAMES, max_size=2, unique=True),
        "properties": named,
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=1),
        "propertyNames": st.sampled_from([True, False, {"pattern": "^a"}, {"enum": ["a", "b"]}, {"const": "a"}]),
        "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, max_size=2, unique=True), max_size=1),
        "dependentSchemas": named,
        "prefixItems": some,
        "items": inner,
        "contains": inner,
        "minContains": counts,
        "maxContains": counts,
        "allOf": some,
        "anyOf": some,
        "oneOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
        "unevaluatedProperties": inner,
        "unevaluatedItems": inner,
        "$ref": st.just("#/$defs/it"),
    }


def dicts(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    known = keywords(inner)
    chosen = st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=3, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: known[key] for key in keys}))


SCHEMAS = st.recursive(st.booleans() | dicts(st.booleans()), dicts, max_leaves=4)
DEFINED = {"type": ["object", "number"], "required": ["a"], "minimum": 1}


def whole(schema: Any) -> Any:
    return {**schema, "$defs": {"it": DEFINED}} if isinstance(schema, dict) else schema


def is_valid(schema: Any, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@settings(max_examples=500, deadline=None)
@given(SCHEMAS, st.lists(VALUES, min_size=1, max_size=12))
def test_nothing_is_allowed_that_was_not(schema: Any, values: list[Any]) -> None:
    original = whole(schema)
    found = rewrite(original)
    for value in values:
        assert is_valid(original, value) or not is_valid(found, value)


@settings(max_examples=300, deadline=None)
@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=12))
def test_negations_contradict_and_disjoint_schemas_share_nothing(one: Any, other: Any, values: list[Any]) -> None:
    defined = {"$defs": {"it": DEFINED}}
    negated = negate(one, lambda _reference: DEFINED)
    apart = Disjointness(lambda _reference: DEFINED).proved(one, other)
    for value in values:
        valid = is_valid({**defined, "allOf": [one]}, value)
        assert not (valid and is_valid({**defined, "allOf": [negated]}, value))
        assert not (valid and apart and is_valid({**defined, "allOf": [other]}, value))


def kinds(count: int) -> list[dict[str, Any]]:
    return [
        {"type": "object", "properties": {"kind": {"const": f"k{n}"}, "x": {"type": "integer"}}, "required": ["kind"]}
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "string"}, {"type": "integer"}],
        [{"enum": ["a", 1]}, {"enum": ["b", 2]}, {"const": None}],
        [{"type": "integer", "maximum": 3}, {"type": "integer", "exclusiveMinimum": 3}],
        [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}],
        [{"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}],
        [
            {"type": "object", "required": ["a"]},
            {"type": "object", "properties": {"b": {}}, "additionalProperties": False},
        ],
        [{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/two"}],
        kinds(30),
    ],
)
def test_one_of_what_excludes_each_other_is_any_of_it(options: list[Any]) -> None:
    defs = {"one": kinds(2)[0], "two": {"allOf": [kinds(2)[1]]}}
    assert rewrite({"$defs": defs, "oneOf": options}) == {"$defs": defs, "allOf": [{"anyOf": options}]}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, "x"], [3, 1.5]),
        ({"type": "string", "not": {"enum": ["ab", "a", ""]}}, ["b", "abc", "aa"], ["", "a", "ab"]),
        (
            {"if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"required": ["b"]}},
            [{"a": 2}],
            [{"a": 1}],
        ),
        ({"dependentRequired": {"a": ["b"]}}, [{"a": 1, "b": 2}, {"b": 1}, 3], [{"a": 1}]),
        ({"properties": {"a": {}}, "unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
    ],
)
def test_what_is_put_otherwise_means_the_same(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    found = rewrite(schema)
    assert not set(found) & set(schema) - {"type", "properties"}
    assert [value for value in valid if not is_valid(found, value)] == []
    assert [value for value in invalid if is_valid(found, value)] == []


def nested(keyword: str, levels: int) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels):
        schema = {"oneOf": [schema, {"type": "null"}]} if keyword == "oneOf" else {"if": schema, "else": False}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested("oneOf", 60),
        nested("if", 60),
        {"oneOf": kinds(2000)},
        {"oneOf": [{"minimum": n} for n in range(4000)]},
        {
            "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)},
            "not": {"$ref": "#/$defs/d0"},
        },
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "oneOf": [{"$ref": "#/$defs/a"}, {"not": {"$ref": "#/$defs/a"}}]},
    ],
)
def test_it_costs_little_whatever_the_schema(schema: Any) -> None:
    started_s = time.thread_time()
    rewrite(schema)
    assert time.thread_time() - started_s < 0.5  # some 50 ms, on a machine that does nothing else
