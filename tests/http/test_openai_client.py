"""The OpenAI SDK against a real model: the right tokens in every form."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from live import Program

PROMPT = "Once upon a time"
USER: Any = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def client(program: Program) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{program.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def aclient(program: Program) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{program.url}/v1", api_key="none", max_retries=0)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "alias"]
    assert client.models.retrieve("alias").id == "alias"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-9", prompt="x")
    assert caught.value.code == "model_not_found"


def test_greedy_completion_has_the_golden_tokens(client: openai.OpenAI, stories: Path) -> None:
    golden = json.loads((stories / "greedy_200.json").read_text())
    extra = {"return_token_ids": True}
    answer = client.completions.create(
        model="tiny", prompt=golden["prompt_ids"], max_tokens=200, temperature=0, extra_body=extra
    )
    assert answer.choices[0].token_ids == golden["greedy_ids"]  # type: ignore[attr-defined]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 200)


def test_beam_search(client: openai.OpenAI) -> None:
    def search(width: int) -> list[str]:
        extra = {"use_beam_search": True}
        done = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, n=width, extra_body=extra)
        return [choice.text for choice in done.choices]

    greedy = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=40, temperature=0)
    assert search(1) == [greedy.choices[0].text]
    assert len(set(search(4))) == 4


def test_whole_stream_and_chat_say_the_same(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=200, temperature=0)
    stream = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=200, temperature=0, stream=True)
    pieces = [chunk.choices[0].text for chunk in stream]
    assert len(pieces) > 2
    assert "".join(pieces) == whole.choices[0].text
    chat = client.chat.completions.create(
        model="tiny", messages=USER, max_tokens=200, temperature=0, extra_body={"add_special_tokens": True}
    )
    assert chat.choices[0].message.content == whole.choices[0].text
    assert chat.usage is not None
    assert chat.usage.prompt_tokens_details is not None


async def test_async_chat_stream_with_usage(aclient: openai.AsyncOpenAI) -> None:
    stream = await aclient.chat.completions.create(
        model="tiny", messages=USER, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


def test_logprobs_are_those_of_the_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.top_logprobs is not None
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs or [], logprobs.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values())  # greedy: the most likely one
    scored = client.completions.create(
        model="tiny", prompt=PROMPT + answer.choices[0].text, max_tokens=0, echo=True, logprobs=0
    )
    again = scored.choices[0].logprobs
    assert again is not None
    assert again.token_logprobs is not None
    assert again.token_logprobs[-6:] == pytest.approx(logprobs.token_logprobs, abs=1e-3)


def test_seed_and_n_and_stop(client: openai.OpenAI) -> None:
    def sample() -> list[str]:
        answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=16, temperature=1, seed=7, n=3)
        return [choice.text for choice in answer.choices]

    first = sample()
    assert first == sample()
    assert len(set(first)) == 3
    stopped = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=60, temperature=0, stop=["girl", "xyz"])
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.choices[0].text.endswith("a little ")
    assert stopped.choices[0].stop_reason == "girl"  # type: ignore[attr-defined]
    stream = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=60, temperature=0, stop="girl", stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == stopped.choices[0].text


def test_the_prefix_cache_is_reported(client: openai.OpenAI) -> None:
    prompt = list(range(300, 364))
    usages = [client.completions.create(model="tiny", prompt=prompt, max_tokens=2).usage for _ in range(2)]
    assert usages[1] is not None
    assert usages[1].prompt_tokens_details is not None
    assert usages[1].prompt_tokens_details.cached_tokens == 48
    salted = client.completions.create(model="tiny", prompt=prompt, max_tokens=2, extra_body={"cache_salt": "me"}).usage
    assert salted is not None
    assert salted.prompt_tokens_details is not None
    assert salted.prompt_tokens_details.cached_tokens == 0


@pytest.mark.parametrize("content", ["raise", "loop"])
def test_a_template_that_raises_or_loops_is_the_requests_fault(client: openai.OpenAI, content: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": content}], timeout=20)
    assert caught.value.param == "messages"
    assert client.models.list().data  # and the server goes on


def test_lengths_over_the_context_say_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[5] * 600, max_tokens=1)
    assert caught.value.code == "context_length_exceeded"
    assert "600" in str(caught.value)
    assert "512" in str(caught.value)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=PROMPT, max_tokens=600)
    assert "600" in str(caught.value)
    assert "512" in str(caught.value)


def test_a_deadline_ends_a_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(model="tiny", prompt=PROMPT, max_tokens=500, extra_body={"timeout": 0.001})
    assert caught.value.status_code == 504


def test_tokenize_round_trip(program: Program) -> None:
    tokens = httpx.post(f"{program.url}/tokenize", json={"prompt": "naïve 🙂", "add_special_tokens": False}).json()
    text = httpx.post(f"{program.url}/detokenize", json={"tokens": tokens["tokens"]}).json()["prompt"]
    assert text.strip() == "naïve 🙂"
