"""Beam search and best_of over HTTP, with an engine whose tokens have made-up probabilities."""

from typing import Any

import pytest
from http_fakes import END_ID, Answer, Caller, FakeEngine

from tradewind.engine.client import Delta
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import SamplingParams

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
# After these letters come these, with these logprobs; the most likely way to begin does not lead to the best.
NEXT: dict[str, list[tuple[str, float]]] = {
    "a": [("b", -0.4), ("c", -0.9), ("\n", -5.0)],
    "b": [("x", -1.9), ("y", -2.0), ("\n", -3.0)],
    "c": [("\n", -0.1), ("x", -3.0), ("y", -4.0)],
    "x": [("\n", -0.5), ("b", -1.0), ("c", -3.0)],
    "y": [("\n", -0.5), ("b", -1.0), ("c", -3.0)],
}


def engine() -> FakeEngine:
    made = FakeEngine()

    def script(params: SamplingParams) -> list[Any]:
        last = chr(made.submitted[-1]["prompt_tokens"][-1])
        ways = NEXT.get(last, NEXT["a"])
        tokens, logprobs = [ord(letter) for letter, _ in ways], [logprob for _, logprob in ways]
        known = TokenLogprobs([tokens[0], *tokens], [logprobs[0], *logprobs], 1)
        return [[Delta(index=0, text="", token_ids=tokens[:1], logprobs=[known], finish_reason=FinishReason.LENGTH)]]

    made.script = script
    return made


async def search(made: Caller, **fields: Any) -> dict[str, Any]:
    answer: Answer = await made.post(TEXT, {"prompt": "a", "use_beam_search": True, "max_tokens": 4, **fields})
    assert answer.status == 200, answer.body
    return dict(answer.json())


async def test_the_best_come_first() -> None:
    made = Caller(engine())
    answer = await search(made, n=2, length_penalty=0, logprobs=1, return_token_ids=True)
    assert [(one["text"], one["finish_reason"]) for one in answer["choices"]] == [("c", "stop"), ("bx", "stop")]
    best = answer["choices"][0]
    assert best["token_ids"] == [ord("c"), END_ID]
    assert best["logprobs"]["token_logprobs"] == [-0.9, -0.1]
    assert answer["usage"]["prompt_tokens"] == 1
    assert answer["usage"]["completion_tokens"] == 2 + 3
    params = made.engine.submitted[0]["params"]
    assert (params.max_tokens, params.logprobs, params.n) == (1, 4, 1)


async def test_a_wider_search_than_is_answered() -> None:
    narrow = await search(Caller(engine()), n=1, length_penalty=0)
    assert [one["text"] for one in narrow["choices"]] == ["bx"]
    wide = await search(Caller(engine()), n=1, best_of=3, length_penalty=0)
    assert [one["text"] for one in wide["choices"]] == ["c"]


async def test_several_prompts_are_searched_together() -> None:
    made = Caller(engine())
    answer = await search(made, prompt=["a", "c", "a"], n=2, length_penalty=0)
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3, 4, 5]
    texts = [one["text"] for one in answer["choices"]]
    assert texts[:2] == texts[4:] == ["c", "bx"]
    assert texts[2] == ""
    assert len(made.engine.submitted) < 3 * 2 * 4


async def test_a_conversation() -> None:
    made = Caller(engine())
    asked = {"messages": [{"role": "user", "content": "hi"}], "use_beam_search": True, "n": 2, "max_tokens": 3}
    answer = await made.post(CHAT, {**asked, "length_penalty": 0})
    assert [one["message"]["content"] for one in answer.json()["choices"]] == ["c", "bx"]


async def test_every_step_carries_the_terms_of_the_request() -> None:
    made = Caller(engine())
    await search(made, n=2, priority=3, cache_salt="s", timeout=50)
    terms = made.engine.submitted
    assert {(one["priority"], one["cache_salt"]) for one in terms} == {(3, "s")}
    assert terms[0]["timeout_s"] >= terms[-1]["timeout_s"] > 40


def three_samples(params: SamplingParams) -> list[Any]:
    assert params.logprobs == 0
    deltas = []
    for index, logprobs in enumerate(([-1.0], [-0.2, -0.3], [-0.4, -0.5, -0.3])):
        known = [TokenLogprobs([65], [logprob], 1) for logprob in logprobs]
        text, tokens = "ABC"[index], [65] * len(logprobs)
        deltas.append(Delta(index=index, text=text, token_ids=tokens, logprobs=known, finish_reason=FinishReason.STOP))
    return [deltas]


@pytest.mark.parametrize("fields", [{}, {"best_of": 3}])
async def test_samples_that_are_all_given_are_not_ranked(fields: dict[str, int]) -> None:
    answer = await Caller(FakeEngine(script=three_samples)).post(TEXT, {"prompt": "a", "n": 3, "logprobs": 0, **fields})
    assert [one["text"] for one in answer.json()["choices"]] == ["A", "B", "C"]


@pytest.mark.parametrize(("n", "best"), [(1, ["B"]), (2, ["B", "C"])])
async def test_the_best_of_samples(n: int, best: list[str]) -> None:
    made = Caller(FakeEngine(script=three_samples))
    answer = (await made.post(TEXT, {"prompt": "a", "n": n, "best_of": 3})).json()
    assert [one["text"] for one in answer["choices"]] == best
    assert [one["index"] for one in answer["choices"]] == list(range(n))
    assert answer["choices"][0]["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 6
