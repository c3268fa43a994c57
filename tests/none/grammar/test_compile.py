"""What compiles, what is refused and where, and that nobody can make it expensive."""

import contextlib
import time
from typing import Any

import pytest

from tradewind.base.errors import RequestError
from tradewind.grammar.compile import MAX_SOURCE_BYTES, Compiler
from tradewind.grammar.json_schema import find_fault
from tradewind.grammar.matcher import Matcher, Vocabulary
from tradewind.protocol.sampling import StructuredOutputs

EOS_ID = 256
BYTES = Vocabulary([bytes([byte]) for byte in range(256)] + [b"<eos>"], [EOS_ID], [EOS_ID])
WORK_S = 0.1  # what a request may cost before it is refused
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}


def allows(matcher: Matcher, token: int) -> bool:
    bits_W = BYTES.masks([matcher])[0]
    return bool(bits_W[token // 32] >> (token % 32) & 1)


def accepts(text: str, **asked: Any) -> bool:
    matcher = BYTES.begin(Compiler().compile(StructuredOutputs(**asked)))
    goes_on = True
    for byte in text.encode():
        if not goes_on or not allows(matcher, byte):
            return False
        goes_on = matcher.advance(byte)
    return not goes_on or allows(matcher, EOS_ID)


@pytest.mark.parametrize(
    ("text", "asked", "accepted"),
    [
        ('{"name": "Ann", "age": 3}', {"json": PERSON}, True),
        ('{\n    "name": "Ann"\n}', {"json": PERSON}, True),
        ('{"age": 3}', {"json": PERSON}, False),
        ('{"name": "Ann", "x": 3}', {"json": PERSON}, False),
        ('{"name": "Ann"} ', {"json": PERSON}, False),
        ('{"name":"Ann","age":3}', {"json": PERSON, "disable_any_whitespace": True}, True),
        ('{"name": "Ann"}', {"json": PERSON, "disable_any_whitespace": True}, False),
        ('{"name":  "Ann"}', {"json": PERSON, "whitespace_pattern": " "}, False),
        ("{" + " " * 41 + "}", {"json_object": True}, False),
        ("[]", {"json_object": True}, False),
        ('{"any": [1, {"thing": null}]}', {"json_object": True}, True),
        ("3", {"json": '{"type": "integer"}'}, True),
        ("null", {"json": True}, True),
        ("null", {"json": {}}, True),
        ("12-34", {"regex": r"\d+-\d+"}, True),
        ("12-34", {"regex": r"^\d+-\d+$"}, True),
        ("a/b", {"regex": "a/b"}, True),
        ("12-34x", {"regex": r"\d+-\d+"}, False),
        ('say "hi"\n', {"choice": ["no", 'say "hi"\n', "été"]}, True),
        ("été", {"choice": ["no", "étés", "été"]}, True),
        ("ét", {"choice": ["no", "été"]}, False),
        ("ac", {"grammar": 'root ::= "a" x\nx ::= "b" | "c"'}, True),
        ("ac", {"grammar": 'start: "a" x\nx: "b" | "c"'}, True),
        ("ad", {"grammar": 'start: "a" x\nx: "b" | "c"'}, False),
    ],
)
def test_texts(text: str, asked: dict[str, Any], accepted: bool) -> None:
    assert accepts(text, **asked) is accepted


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"properties": {"a/b": {"items": {"not": {"pattern": "a"}}}}}, "/properties/a~1b/items/not"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}, "/properties/a/pattern"),
        ({"properties": {"a": {"type": "strin"}}}, "/properties/a/type"),
        ({"properties": {"a": {"type": "string", "format": "color"}}}, "/properties/a/format"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, "/properties/a/$ref"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "/properties/a"),
        ({"properties": {"a": {"$ref": "https://example.com/schema"}}}, "/properties/a"),
        ({"$defs": {"x": {"uniqueItems": True, "type": "array"}}, "$ref": "#/$defs/x"}, "/$defs/x/uniqueItems"),
        ({"anyOf": [{"type": "null"}, {"type": "array", "contains": {"type": "null"}}]}, "/anyOf/1/contains"),
        ({"type": "object", "minProperties": 2}, "/minProperties"),
        ({"properties": {"a": {"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}}}, "/properties/a/oneOf"),
        ({"if": {"pattern": "a"}, "then": {"minLength": 3}}, "/if"),
    ],
)
def test_a_fault_is_named_by_its_pointer(schema: dict[str, Any], pointer: str) -> None:
    with pytest.raises(RequestError, match="structured_outputs") as caught:
        Compiler().compile(StructuredOutputs(json=schema))
    assert f"'{pointer}'" in caught.value.message
    assert "option" not in caught.value.message.replace("oneOf needs options", "")  # advice on llguidance's settings
    assert caught.value.status == 400


def test_the_place_of_a_fault_does_not_depend_on_what_else_the_machine_does() -> None:
    def fault_of(part: Any) -> str | None:
        time.sleep(0.03)  # somebody else's turn
        return "uniqueItems" if "uniqueItems" in part else None

    schema = {"properties": {"a": {"items": {"items": {}}}, "b": {"uniqueItems": True}}}
    assert find_fault(schema, "uniqueItems", fault_of) == "/properties/b/uniqueItems"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"json": {}, "regex": "a"},
        {"json": "{"},
        {"json": "[1]"},
        {"json": False},
        {"json": {"$ref": "#"}},
        {"json": {"type": "integer", "minimum": 5, "maximum": 3}},
        {"regex": "("},
        {"choice": []},
        {"choice": ["x"] * 5000},
        {"grammar": "neither ((("},
        {"grammar": "start: missing"},
        {"regex": "a" * MAX_SOURCE_BYTES},
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        Compiler().compile(StructuredOutputs(**asked), "field.of.mine")
    assert caught.value.field == "field.of.mine"
    assert caught.value.message.startswith("field.of.mine")


SPECIAL = ["<|call|>", "<mark>"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"regex": "a(("}, "structured_outputs.regex: invalid regex"),
        ({"grammar": 'start: a\na: "x" ]'}, "structured_outputs.grammar: line 2, column 8: "),
        ({"grammar": "start: b"}, "structured_outputs.grammar: line 1, column 8: unknown name"),
    ],
)
def test_a_fault_of_a_text_is_told_by_its_place_in_it(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        Compiler().compile(StructuredOutputs(**asked))
    assert caught.value.message.startswith(message)
    assert "%llguidance" not in caught.value.message


def test_special_tokens_that_the_model_has_may_be_named() -> None:
    vocabulary = Vocabulary(
        [*(bytes([byte]) for byte in range(256)), b"<eos>", *map(str.encode, SPECIAL)], [256, 257, 258], [EOS_ID]
    )
    asked = StructuredOutputs(grammar='start: <|call|> "<x>" /<y>|"<z>/ <mark>  // <not this>\n')
    matcher = vocabulary.begin(Compiler(SPECIAL).compile(asked))
    tokens = [257, *b"<x><y>", 258]
    assert [matcher.advance(token) for token in tokens] == [True] * (len(tokens) - 1) + [False]
    assert matcher.error is None


@pytest.mark.parametrize("name", ["<|im_end|>", "<eos>", "<marks>", "<[3]>", "<[^3]>", "<[256]>"])
def test_other_special_tokens_are_refused_by_their_names(name: str) -> None:
    for compiler in (Compiler(SPECIAL), Compiler()):
        with pytest.raises(RequestError) as caught:
            compiler.compile(StructuredOutputs(grammar=f'start: "a" {name}'))
        assert f"structured_outputs.grammar: {name} " in caught.value.message
        if "[" not in name and compiler._special_tokens:
            assert "<|call|>, <mark>" in caught.value.message


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _doubling(keyword: str, levels: int) -> dict[str, Any]:
    refs = {f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**refs, f"d{levels}": {"type": "string"}}, "$ref": "#/$defs/d0"}


BOMBS: dict[str, dict[str, Any]] = {
    "depth": {"json": _deep(5000)},
    "doubling anyOf": {"json": _doubling("anyOf", 50)},
    "doubling allOf": {"json": _doubling("allOf", 30)},
    "product": {
        "json": {
            "allOf": [
                {"anyOf": [{"type": "object", "properties": {f"p{i}": {"const": j}}} for j in range(4)]}
                for i in range(12)
            ]
        }
    },
    "properties": {"json": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5000)}}},
    "enum": {"json": {"enum": list(range(30000))}},
    "multipleOf": {"json": {"type": "integer", "multipleOf": 999983}},
    "several multipleOf": {"json": {"allOf": [{"type": "integer", "multipleOf": n} for n in (9973, 9967, 9949)]}},
    "lengths": {"json": {"type": "string", "minLength": 10**9, "maxLength": 10**9}},
    "items": {"json": {"type": "array", "items": _deep(8), "minItems": 10**9}},
    "negations": {"json": {"not": {"anyOf": [{"not": {"enum": [f"{i}{j}" for j in range(70)]}} for i in range(70)]}}},
    "kinds": {"json": {"oneOf": [{"properties": {"k": {"const": i}}, "required": ["k"]} for i in range(2000)]}},
    "other texts": {"json": {"type": "string", "not": {"enum": [f"{i * 7919 % 10007}" for i in range(4999)]}}},
    "circle": {"json": {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}, "$ref": "#/$defs/a"}},
    "tree": {
        "json": {
            "$defs": {"a": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/a"}}] * 50}},
            "$ref": "#/$defs/a",
        }
    },
    "megabyte": {"json": {"enum": ["x" * 2**20]}},
    "long enum": {"json": {"enum": ["x" * 2**12 + str(i) for i in range(60)]}},
    "pattern": {"json": {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}},
    "repeats": {"regex": "(a{1,1000}){1,1000}"},
    "choices": {"choice": [f"{i * 7919 % 100003:05}" * 10 for i in range(4000)]},
    "regex": {"regex": "(((x{999}){999}){999}){999}"},
    "regex states": {"regex": "(.*a.{300}){3}"},
    "regex depth": {"regex": "(" * 20000 + "x" + ")" * 20000},
    "ambiguous": {"grammar": 'start: a\na: a a | "x" | ""'},
    "grammar depth": {"grammar": "start: " + "(" * 15000 + '"x"' + ")" * 15000},
    "GBNF depth": {"grammar": "root ::= " + "(" * 15000 + '"x"' + ")" * 15000},
}


def _million_additions_s() -> float:
    """About 50 ms on a machine at its full speed."""
    started_s, total = time.thread_time(), 0
    for number in range(1_000_000):
        total += number
    return time.thread_time() - started_s


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little_whatever_becomes_of_them(name: str) -> None:
    compiler, asked = Compiler(), StructuredOutputs(**BOMBS[name])
    started_s = time.thread_time()
    with contextlib.suppress(RequestError):
        compiler.compile(asked)
    took_s = time.thread_time() - started_s
    assert took_s < 5 * WORK_S or took_s < 10 * _million_additions_s()  # on a machine that does other things as well


def test_a_schema_cannot_loosen_its_own_rules() -> None:
    schema = {"x-guidance": {"lenient": True}, "type": "array", "uniqueItems": True}
    with pytest.raises(RequestError):
        Compiler().compile(StructuredOutputs(json=schema))


def test_what_was_compiled_is_remembered() -> None:
    compiler = Compiler()
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(400)}}
    first = compiler.compile(StructuredOutputs(json=schema))
    started_s = time.thread_time()
    for _ in range(20):
        assert compiler.compile(StructuredOutputs(json=schema)) is first
    assert time.thread_time() - started_s < 0.02


def test_every_end_of_sequence_ends_a_grammar() -> None:
    vocabulary = Vocabulary([b"a", b"b", b"<eos>", b"<end>", b""], [2, 3], [2, 3])
    matcher = vocabulary.begin(Compiler().compile(StructuredOutputs(regex="a+")))
    for expected in (0b00001, 0b01101):
        assert vocabulary.masks([matcher])[0, 0] & 0b11111 == expected
        assert matcher.advance(0)
    assert not matcher.advance(3)
    assert matcher.error is None
