"""LLM and AsyncEngine with a real model: the golden tokens, and the shape of what comes back."""

import asyncio
import itertools
import json
import os
import signal

import pytest

from tradewind import LLM, SamplingParams
from tradewind.base.errors import ConfigError, ContextLengthExceeded, EngineFailed, ModelNotFound, RequestError
from tradewind.config import from_flat
from tradewind.engine.client import AsyncEngine
from tradewind.protocol.request import FinishReason

GREEDY_200 = SamplingParams(temperature=0, max_tokens=200)


@pytest.fixture(scope="module")
def directory(shared_data):
    return shared_data / "models" / "stories260K"


@pytest.fixture(scope="module")
def golden(directory):
    return json.loads((directory / "greedy_200.json").read_text())


@pytest.fixture(scope="module")
def llm(directory):
    with LLM(str(directory), threads=1) as llm:
        yield llm


def test_greedy_tokens_are_the_golden_ones(llm, golden):
    (answer,) = llm.generate([golden["prompt_ids"]], GREEDY_200, progress=False)
    (completion,) = answer.outputs
    assert completion.token_ids == golden["greedy_ids"]
    assert completion.text.strip() == golden["text"].strip()
    assert completion.finish_reason is FinishReason.LENGTH
    assert (answer.prompt, answer.prompt_token_ids) == (None, golden["prompt_ids"])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 200)


def test_a_text_continues_as_the_golden_story_does(llm, golden):
    (answer,) = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=190), progress=False)
    said = answer.prompt_token_ids[1:] + answer.outputs[0].token_ids
    assert said == golden["greedy_ids"][: len(said)]
    assert answer.prompt == "Once upon a time"


def test_the_engine_process_says_the_same(directory, golden):
    async def ask():
        engine = await AsyncEngine.start(from_flat({"model": str(directory), "threads": 1, "log_level": "error"}))
        try:
            streams = [engine.submit(golden["prompt_ids"], GREEDY_200) for _ in range(16)]
            return await asyncio.gather(*map(read, streams))
        finally:
            await engine.close()

    async def read(stream):
        return [token async for deltas in stream for delta in deltas for token in delta.token_ids]

    assert asyncio.run(ask()) == [golden["greedy_ids"]] * 16


def test_each_prompt_has_its_own_params_and_order_is_kept(llm):
    prompts = ["The cat", [1, 403], "A dog ran"]
    params = [SamplingParams(temperature=0, max_tokens=count) for count in (3, 1, 5)]
    answers = llm.generate(prompts, params, progress=False)
    assert [answer.prompt for answer in answers] == ["The cat", None, "A dog ran"]
    assert [len(answer.outputs[0].token_ids) for answer in answers] == [3, 1, 5]
    alone = llm.generate("A dog ran", params[2], progress=False)
    assert alone[0].outputs == answers[2].outputs


def test_logprobs_have_the_known_shape(llm):
    params = SamplingParams(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=0)
    (answer,) = llm.generate("Once upon", params, progress=False)
    (completion,) = answer.outputs
    assert len(completion.logprobs) == 3
    for token, position in zip(completion.token_ids, completion.logprobs, strict=True):
        assert next(iter(position)) == token
        assert position[token].rank == 1
        assert position[token].decoded_token == llm.tokenizer.token_text(token)
        assert len(position) == 2
        assert all(entry.logprob <= 0 for entry in position.values())
    assert answer.prompt_logprobs[0] is None
    rest = [next(iter(position)) for position in answer.prompt_logprobs[1:]]
    assert rest == answer.prompt_token_ids[1:]


def test_n_answers_differ_and_are_reproducible(llm):
    params = SamplingParams(n=3, seed=11, max_tokens=12, temperature=2.0)
    first, second = (llm.generate("Once", params, progress=False)[0].outputs for _ in range(2))
    assert first == second
    assert [completion.index for completion in first] == [0, 1, 2]
    assert len({completion.text for completion in first}) == 3


def test_stop_strings_end_an_answer(llm):
    (answer,) = llm.generate(
        "Once upon a time", SamplingParams(temperature=0, max_tokens=50, stop=["girl"]), progress=False
    )
    assert answer.outputs[0].text == ", there was a little "
    assert (answer.outputs[0].finish_reason, answer.outputs[0].stop_reason) == (FinishReason.STOP, "girl")


def test_chat_uses_the_template(directory, tmp_path, golden):
    template = tmp_path / "chat.jinja"
    template.write_text("{{ bos_token }}{% for message in messages %}{{ message.content }}{{ joint }}{% endfor %}")
    with LLM(str(directory), threads=1, chat_template=str(template)) as llm:
        params = SamplingParams(temperature=0, max_tokens=5)
        talk = [{"role": "user", "content": "Once upon"}, {"role": "user", "content": "a time"}]
        answers = llm.chat([talk, talk[:1]], params, chat_template_kwargs={"joint": " "}, progress=False)
        assert [answer.prompt for answer in answers] == ["<s>Once upon a time ", "<s>Once upon "]
        (single,) = llm.chat(talk, params, chat_template_kwargs={"joint": " "}, progress=False)
        assert single.outputs == answers[0].outputs


def test_wrong_requests_start_nothing(llm):
    with pytest.raises(RequestError, match="no chat template"):
        llm.chat([{"role": "user", "content": "hi"}])
    with pytest.raises(RequestError, match="2 prompts but 1 params"):
        llm.generate(["a", "b"], [SamplingParams()])
    with pytest.raises(ContextLengthExceeded):
        llm.generate(["fine", [1] * 1000])
    with pytest.raises(RequestError) as caught:
        llm.generate("a", SamplingParams(top_p=2.0))
    assert caught.value.field == "top_p"
    assert not llm._engine.has_work
    assert llm.generate([]) == []


def test_ctrl_c_ends_all_requests_and_the_llm_lives_on(llm, golden, monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    run, steps = llm._engine.runner.run, itertools.count()

    def interrupted(plan):
        if next(steps) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return run(plan)

    with monkeypatch.context() as patch:
        patch.setattr(llm._engine.runner, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[1]] * 64, SamplingParams(max_tokens=500, ignore_eos=True), progress=False)
    assert next(steps) < 40
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    llm._engine.scheduler.check()
    assert llm._engine.stats().blocks_used == 0
    (answer,) = llm.generate([golden["prompt_ids"]], SamplingParams(temperature=0, max_tokens=20), progress=False)
    assert answer.outputs[0].token_ids == golden["greedy_ids"][:20]


def test_a_failed_step_ends_the_llm(directory, monkeypatch):
    llm = LLM(str(directory), threads=1)

    def fail(_plan):
        raise RuntimeError("fire")

    monkeypatch.setattr(llm._engine.runner, "run", fail)
    for _ in range(2):
        with pytest.raises(EngineFailed, match="RuntimeError: fire"):
            llm.generate("a", progress=False)
    llm.close()


def test_start_up_errors_come_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="did you mean 'max_model_len'"):
        LLM("demo", max_modle_len=10)
    with pytest.raises(ModelNotFound):
        LLM("./no/such/place")


def test_the_progress_bar_goes_to_standard_error(llm, capsys):
    llm.generate(["a", "b"], SamplingParams(max_tokens=2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    assert "tok/s" in captured.err


def test_defaults_are_the_models_own(llm):
    params = llm.default_params(max_tokens=7)
    assert params.max_tokens == 7
    assert params.temperature == (1.0 if llm.defaults.temperature is None else llm.defaults.temperature)
