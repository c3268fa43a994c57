"""Calls and formats in messages, held by a model whose marks are special tokens."""

import json

import jsonschema
import pytest
from tokenizers import AddedToken, Tokenizer

from tests.cpu.tiny_models import TinyModel, make_tiny_model, make_tiny_tokenizer
from tradewind import LLM, SamplingParams, StructuredOutputs
from tradewind.server.tool_grammar import forced_grammar, framed_grammar
from tradewind.text.harmony import MARKS, RETURN, HarmonyReader
from tradewind.text.tool_calls import CallArguments, CallStart, Content
from tradewind.text.tool_formats import HARMONY, Tool

SCHEMA = {
    "type": "object",
    "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}, "unit": {"enum": ["C", "F"]}},
    "required": ["days", "unit"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    path = make_tiny_model(tmp_path_factory.mktemp("harmony"), TinyModel("llama", vocab=310, max_position=512))
    make_tiny_tokenizer(path, 300)
    library = Tokenizer.from_file(str(path / "tokenizer.json"))
    library.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    library.save(str(path / "tokenizer.json"))
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": RETURN}))
    with LLM(str(path), threads=1, dtype="float32") as llm:
        yield llm


def say(llm, grammar, seed):
    # Without a model's sense of when to end, its reasoning is kept short by a bias towards the mark that ends it.
    bias = {llm.tokenizer.id_of("<|end|>"): 20.0}
    params = SamplingParams(
        structured_outputs=StructuredOutputs(grammar=grammar),
        max_tokens=400,
        seed=seed,
        logit_bias=bias,
        skip_special_tokens=False,
    )
    (answer,) = llm.generate("baba", params, progress=False)
    assert answer.outputs[0].finish_reason == "stop", answer
    return answer.outputs[0].text


def test_a_forced_call(llm):
    tools = [Tool("weather", SCHEMA), Tool("now", {"type": "object", "properties": {}, "additionalProperties": False})]
    for seed in range(6):
        text = say(llm, forced_grammar(HARMONY, tools, parallel=False), seed)
        reader = HarmonyReader({tool.name: tool.parameters for tool in tools})
        pieces = reader.push(text) + reader.finish()
        (name,) = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        arguments = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
        jsonschema.validate(json.loads(arguments), {tool.name: tool.parameters for tool in tools}[name])


def test_a_format(llm):
    for seed in range(6):
        text = say(llm, framed_grammar(StructuredOutputs(json=SCHEMA), "structured_outputs"), seed)
        reader = HarmonyReader({})
        pieces = reader.push(text) + reader.finish()
        jsonschema.validate(json.loads("".join(one.text for one in pieces if isinstance(one, Content))), SCHEMA)
