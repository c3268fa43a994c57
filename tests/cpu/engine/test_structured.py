"""Structured output from the demo model: whatever it is asked and however hot it is, its answers validate."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tradewind import LLM, SamplingParams, StructuredOutputs
from tradewind.engine.answers import CompletionOutput
from tradewind.protocol.request import FinishReason

SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "email": {"type": "string", "format": "email", "maxLength": 30},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "list": {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 2, "maxItems": 5},
    "nested": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "number", "minimum": -10, "exclusiveMaximum": 10},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "union": {
        "anyOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "n": {"multipleOf": 5}}, "required": ["kind"]},
            {"type": "string", "pattern": "^[A-Z]{2,5}-\\d{1,3}$"},
            {"type": "boolean"},
        ]
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 3},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string", "format": "date"}, {"type": "integer"}],
        "items": False,
        "minItems": 2,
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "string", "maxLength": 8}}, "required": ["b"]},
        ],
    },
    "words": {"type": "string", "maxLength": 40},
}
PROMPTS = ("Tell me about a fox.", "What is 17 + 25?")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo", memory_bytes="16MiB") as made:
        yield made


def answers(llm: LLM, asked: StructuredOutputs, prompts: Any = PROMPTS, **changes: Any) -> list[CompletionOutput]:
    values = {"temperature": 1.5, "max_tokens": 600, "n": 6, "seed": 7, "structured_outputs": asked, **changes}
    outputs = llm.generate(list(prompts), SamplingParams(**values), progress=False)
    return [choice for output in outputs for choice in output.outputs]


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_validates(llm: LLM, name: str) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema.Draft202012Validator(schema)
    done = 0
    for answer in answers(llm, StructuredOutputs(json=schema)):
        assert answer.finish_reason in (FinishReason.STOP, FinishReason.LENGTH), answer
        if answer.finish_reason is FinishReason.STOP:
            validator.validate(json.loads(answer.text))
            done += 1
    # How many do depends on the draws, and these on the instruction set: a nested answer may go on for long.
    assert done, "no answer came to its end"


def test_json_object(llm: LLM) -> None:
    for answer in answers(llm, StructuredOutputs(json_object=True)):
        assert answer.finish_reason is FinishReason.LENGTH or isinstance(json.loads(answer.text), dict)


def test_regex_choice_and_grammar(llm: LLM) -> None:
    assert all(re.fullmatch(r"\d{3}-\d{4}", one.text) for one in answers(llm, StructuredOutputs(regex=r"\d{3}-\d{4}")))
    chosen = {one.text for one in answers(llm, StructuredOutputs(choice=["yes", "no", "maybe so"]))}
    assert chosen <= {"yes", "no", "maybe so"}
    assert len(chosen) > 1
    grammar = 'root ::= "fox" | "cat" [0-9]+ "!"'
    assert all(re.fullmatch(r"fox|cat\d+!", one.text) for one in answers(llm, StructuredOutputs(grammar=grammar)))


def test_an_answer_does_not_depend_on_its_company(llm: LLM) -> None:
    asked = StructuredOutputs(json=SCHEMAS["person"])
    alone = [answers(llm, asked, [prompt], n=2) for prompt in PROMPTS]
    params = SamplingParams(temperature=1.5, max_tokens=600, n=2, seed=7, structured_outputs=asked)
    plain = SamplingParams(temperature=1.0, max_tokens=40, seed=3)
    together = llm.generate([*PROMPTS, *PROMPTS], [params, params, plain, plain], progress=False)
    assert [one.text for one in together[0].outputs + together[1].outputs] == [
        one.text for part in alone for one in part
    ]
    assert [one.outputs[0].text for one in together[2:]] == [
        one.outputs[0].text for one in llm.generate(list(PROMPTS), plain, progress=False)
    ]


def test_with_logprobs_stop_min_tokens_bias_and_penalties(llm: LLM) -> None:
    asked = StructuredOutputs(regex="[a-z]+(,[a-z]+)*")
    (answer,) = answers(llm, asked, PROMPTS[:1], n=1, logprobs=3, max_tokens=30, min_tokens=10)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == len(answer.token_ids) >= 10
    changes = {"stop": [","], "repetition_penalty": 1.3, "presence_penalty": 0.5, "bad_words": ["fox"]}
    for answer in answers(llm, asked, **changes):
        assert re.fullmatch("[a-z]+", answer.text)
        assert "," not in answer.text
    (answer,) = answers(llm, StructuredOutputs(choice=["yes"]), PROMPTS[:1], n=1, min_tokens=20, max_tokens=40)
    assert (answer.text, answer.finish_reason) == ("yes", FinishReason.STOP)


def test_a_mask_and_a_list_of_tokens_that_leave_nothing(llm: LLM) -> None:
    asked = StructuredOutputs(choice=["yes"])
    (answer,) = answers(llm, asked, PROMPTS[:1], n=1, allowed_token_ids=[3])
    assert answer.finish_reason is FinishReason.REFUSED
    assert "forbidden" in answer.message


def test_preempted_and_cached_answers_are_the_same() -> None:
    asked = StructuredOutputs(json=SCHEMAS["person"])
    prompts = [f"{PROMPTS[0]} {'Really. ' * 20}{number % 2}" for number in range(6)]
    values: dict[str, Any] = {"n": 2, "max_tokens": 120}
    with LLM("demo", memory_bytes="16MiB") as roomy, LLM("demo", memory_bytes="640KiB", max_model_len=320) as tight:
        expected = answers(roomy, asked, prompts, **values)
        found = answers(tight, asked, prompts, **values)
        assert tight._engine.stats().preemptions
        assert [one.token_ids for one in expected] == [one.token_ids for one in found]
        assert [one.token_ids for one in answers(roomy, asked, prompts, **values)] == [
            one.token_ids for one in expected
        ]
