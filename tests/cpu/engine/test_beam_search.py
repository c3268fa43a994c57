"""LLM.beam_search beside transformers' own, on a tiny model."""

import json

import pytest
import torch

from tests.cpu.tiny_models import TinyModel, make_tiny_model, random_prompt, transformers_model
from tradewind import LLM, BeamSearchParams
from tradewind.base.errors import ContextLengthExceeded, RequestError

VOCAB = 300
ENDS = [1, 3, 17, 40, 41, 42, 77, 100, 130, 160, 201, 222, 250, 280, 299]  # so many that searches end at all lengths
PROMPTS = [random_prompt(VOCAB, 40, seed=1), random_prompt(VOCAB, 7, seed=2)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    tiny = TinyModel("llama", vocab=VOCAB, tokenizer=True, max_position=128)
    path = make_tiny_model(tmp_path_factory.mktemp("beams"), tiny)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "eos_token_id": ENDS}))
    return path


@pytest.fixture(scope="module")
def llm(directory):
    with LLM(str(directory), threads=1, dtype="float32") as llm:
        yield llm


@torch.inference_mode()
def transformers_beams(directory, prompt, width, count, length_penalty, early_stopping, ends):
    output = transformers_model(directory).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        max_new_tokens=count,
        length_penalty=length_penalty,
        early_stopping=True if early_stopping else "never",
        eos_token_id=ends,
        pad_token_id=VOCAB,
        return_dict_in_generate=True,
        output_scores=True,
    )
    tokens = [[token for token in row if token != VOCAB] for row in output.sequences[:, len(prompt) :].tolist()]
    return tokens, output.sequences_scores.tolist()


@pytest.mark.parametrize(
    ("width", "length_penalty", "early_stopping", "ignore_eos"),
    [(2, 1.0, False, False), (4, 1.0, False, False), (3, 0.0, True, False), (6, 2.0, False, False),
     (4, -1.0, False, False), (5, 1.0, False, True)],
)  # fmt: skip
def test_the_same_as_transformers(llm, directory, width, length_penalty, early_stopping, ignore_eos):
    params = BeamSearchParams(
        beam_width=width,
        max_tokens=20,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        ignore_eos=ignore_eos,
    )
    for prompt, found in zip(PROMPTS, llm.beam_search(PROMPTS, params), strict=True):
        ends = None if ignore_eos else ENDS
        expected, scores = transformers_beams(directory, prompt, width, 20, length_penalty, early_stopping, ends)
        assert [one.tokens[len(prompt) :] for one in found.sequences] == expected
        for one, score in zip(found.sequences, scores, strict=True):
            length = len(one.tokens) - len(prompt)
            assert one.cum_logprob / length**length_penalty == pytest.approx(score, abs=1e-4)
            assert (one.finish_reason == "stop") is (not ignore_eos and one.tokens[-1] in ENDS)
    llm._engine.scheduler.check()


def test_the_blocks_of_a_common_beginning_are_shared(llm):
    before = llm._engine.stats()
    llm.beam_search([random_prompt(VOCAB, 90, seed=9)], BeamSearchParams(beam_width=4, max_tokens=8, ignore_eos=True))
    after = llm._engine.stats()
    asked = after.prefix_query_tokens - before.prefix_query_tokens
    assert after.prefix_hit_tokens - before.prefix_hit_tokens > 0.7 * asked


def test_texts_and_ends(llm):
    params = BeamSearchParams(beam_width=3, max_tokens=30, stop_token_ids=[5, 6])
    (found,) = llm.beam_search("baba", params)
    prompt = llm.tokenizer.encode("baba")
    for one in found.sequences:
        said = one.tokens[:-1] if one.finish_reason == "stop" else one.tokens
        assert one.text == llm.tokenizer.decode(said)
        assert one.tokens[: len(prompt)] == prompt
        assert len(one.logprobs) == len(one.tokens) - len(prompt)
        assert one.stop_reason == (one.tokens[-1] if one.tokens[-1] in (5, 6) else None)


def test_wrong_searches_start_nothing(llm):
    for field, params in {
        "beam_width": BeamSearchParams(beam_width=11),
        "temperature": BeamSearchParams(beam_width=2, temperature=0.5),
        "length_penalty": BeamSearchParams(beam_width=2, length_penalty=float("nan")),
        "max_tokens": BeamSearchParams(beam_width=2, max_tokens=0),
    }.items():
        with pytest.raises(RequestError) as caught:
            llm.beam_search("a", params)
        assert caught.value.field == field
    with pytest.raises(ContextLengthExceeded):
        llm.beam_search("a", BeamSearchParams(beam_width=2, max_tokens=500))
    assert not llm._engine.has_work
