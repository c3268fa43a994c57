"""Limits of a key: requests and tokens a minute, requests at once; what is refused, and what is said with it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from http_fakes import Answer, FakeEngine, words
from http_fakes import Caller as Client
from prometheus_client.parser import text_string_to_metric_families

from tradewind.base.errors import EngineFailed
from tradewind.engine.client import Delta
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import TokenLogprobs
from tradewind.protocol.sampling import SamplingParams
from tradewind.server import allowance
from tradewind.server.allowance import Allowance, Allowances, Bucket, RateLimited
from tradewind.server.key_file import add_key
from tradewind.server.keys import Caller, Rates

TEXT = "/v1/completions"


def test_a_bucket_fills_all_the_time_and_holds_a_minutes_worth() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.wait_s(60, 0.0) == 0
    bucket.take(60)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(30, 10.0) == pytest.approx(20.0)
    assert bucket.left(10.0) == 10
    assert bucket.left(1000.0) == 60
    bucket.take(100)
    assert (bucket.left(1000.0), bucket.wait_s(1, 1000.0)) == (0, pytest.approx(41.0))
    assert bucket.wait_s(10**9, 1000.0) == pytest.approx(100.0)  # larger than the bucket: when it is full
    bucket.take(-(10**9))
    assert bucket.left(1000.0) == 60


def test_over_time_the_rate_holds() -> None:
    """Whatever is asked for, as often as it can be: a minute's worth at first, and then the rate."""
    one = Allowance(Rates(requests_per_minute=30, tokens_per_minute=600), 0.0)
    taken, tokens = 0, 0
    for step in range(10 * 60 * 10):
        now_s = step / 10
        try:
            one.enter(now_s)
        except RateLimited:
            continue
        used = [0]
        charge = one.reserve(step % 2, lambda used=used: used[0], now_s)
        used[0] = 70
        assert charge is not None
        one.close([charge])
        one.leave()
        taken, tokens = taken + 1, tokens + used[0]
    assert tokens <= 600 + 10 * 600 + 70
    assert tokens >= 10 * 600 - 100
    assert taken <= 30 + 10 * 30


def test_running_answers_are_charged_as_they_come() -> None:
    one = Allowance(Rates(tokens_per_minute=100), 0.0)
    used = [10]
    one.enter(0.0)
    charge = one.reserve(10, lambda: used[0], 0.0)
    one.enter(0.0)
    used[0] = 150
    with pytest.raises(RateLimited) as caught:
        one.enter(0.0)
    assert caught.value.retry_after_s == pytest.approx(51 * 0.6)
    assert charge is not None
    one.close([charge])
    assert one.headers(0.0)[1] == (b"x-ratelimit-remaining-tokens", b"0")
    one.enter(31.0)


def test_what_is_not_used_is_given_back() -> None:
    one = Allowance(Rates(tokens_per_minute=100), 0.0)
    charge = one.reserve(90, lambda: 20, 0.0)
    with pytest.raises(RateLimited):
        one.reserve(20, lambda: 0, 0.0)
    assert charge is not None
    one.close([charge])
    assert one.reserve(80, lambda: 0, 0.0) is not None


def test_a_request_larger_than_a_minutes_worth_needs_a_full_bucket() -> None:
    one = Allowance(Rates(tokens_per_minute=100), 0.0)
    charge = one.reserve(1000, lambda: 1000, 0.0)
    assert charge is not None
    one.close([charge])
    with pytest.raises(RateLimited) as caught:
        one.enter(0.0)
    assert caught.value.retry_after_s == pytest.approx(901 * 0.6)


def test_a_change_of_limits_keeps_what_was_used() -> None:
    rates = [Rates(requests_per_minute=2), Rates(requests_per_minute=3), Rates()]
    known = Allowances(lambda: 0.0)
    known.ticket(Caller("a", rates[0])).enter()
    known.ticket(Caller("a", rates[0])).enter()
    with pytest.raises(RateLimited):
        known.ticket(Caller("a", rates[0])).enter()
    known.ticket(Caller("a", rates[1])).enter()
    with pytest.raises(RateLimited):
        known.ticket(Caller("a", rates[1])).enter()
    for _ in range(9):
        known.ticket(Caller("a", rates[2])).enter()


def test_labels_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "MAX_LABELS", 2)
    known = Allowances()
    for name in ("", "a", "b", "c"):
        known.ticket(Caller(name))
    assert {label: len(each) for label, each in known.by_label().items()} == {"anonymous": 1, "a": 1, "others": 2}


# --- over HTTP -------------------------------------------------------------------------------------------------------


class Keyed:
    """A server with one limited key, and its owner."""

    def __init__(self, folder: Path, engine: FakeEngine | None = None, **limits: int) -> None:
        self._key = add_key(folder / "keys", "alice", Rates(**limits))
        self.other = add_key(folder / "keys", "bob", Rates())
        self.client = Client(engine, api_key_file=str(folder / "keys"))

    async def post(self, path: str = TEXT, key: str | None = None, **body: Any) -> Answer:
        return await self.client.post(path, {"prompt": "abcd", **body}, authorization=f"Bearer {key or self._key}")

    async def metric(self, name: str) -> dict[tuple[str, ...], float]:
        page = (await self.client.get("/metrics")).body.decode()
        return {
            tuple(value for label, value in sorted(sample.labels.items()) if label != "model_name"): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == f"tradewind:{name}"
        }


async def test_requests_per_minute(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, requests_per_minute=2)
    first = await keyed.post()
    assert first.status == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-tokens" not in first.headers
    assert (await keyed.post(path="/tokenize")).status == 200
    third = await keyed.post()
    assert (third.status, third.error()["code"], third.error()["type"]) == (429, "rate_limit_exceeded", "requests")
    assert int(third.headers["retry-after"]) == 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert (await keyed.post(key=keyed.other)).status == 200
    assert len(keyed.client.engine.submitted) == 2
    for _ in range(3):  # looking is free
        assert (await keyed.client.get("/v1/models", authorization=f"Bearer {keyed.other}")).status == 200
    assert await keyed.metric("key_refused_total") == {
        ("alice", "requests"): 1, ("alice", "tokens"): 0, ("alice", "concurrency"): 0,
        ("bob", "requests"): 0, ("bob", "tokens"): 0, ("bob", "concurrency"): 0,
    }  # fmt: skip


async def test_a_refusal_reads_no_body_and_has_anthropics_shape_on_its_routes(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, requests_per_minute=1)
    await keyed.post()
    answer = await keyed.post(path="/v1/messages", nonsense=True)
    assert (answer.status, answer.json()["type"]) == (429, "error")
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert "retry-after" in answer.headers


async def test_tokens_per_minute(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, tokens_per_minute=30)
    first = await keyed.post(max_tokens=3)  # 4 in the prompt, 3 said
    assert (first.status, first.headers["x-ratelimit-remaining-tokens"]) == (200, "23")
    second = await keyed.post(max_tokens=100)  # reserves more than is there
    assert (second.status, second.error()["type"]) == (429, "tokens")
    assert "30 tokens per minute" in second.error()["message"]
    assert 1 <= int(second.headers["retry-after"]) <= 14
    third = await keyed.post()  # names no limit: its prompt counts, and then what is said
    assert third.status == 200
    assert (await keyed.post(max_tokens=8)).status == 429
    assert await keyed.metric("key_tokens_total") == {("alice", "prompt"): 8, ("alice", "generation"): 11}


async def test_a_beam_search_pays_once(tmp_path: Path) -> None:
    def script(params: SamplingParams) -> list[Any]:
        known = TokenLogprobs([97, *range(97, 97 + 4)], [-0.5, *(-0.5 - index for index in range(4))], 1)
        return [[Delta(index=0, text="", token_ids=[97], logprobs=[known], finish_reason=FinishReason.LENGTH)]]

    keyed = Keyed(tmp_path, FakeEngine(script=script), tokens_per_minute=30)
    search = {"use_beam_search": True, "n": 2, "max_tokens": 5}
    first = await keyed.post(**search)  # 4 in the prompt, 1 and four times 2 said
    assert (first.status, first.headers["x-ratelimit-remaining-tokens"]) == (200, "16")  # 10 were reserved
    assert (await keyed.post(path="/tokenize")).headers["x-ratelimit-remaining-tokens"] == "17"
    assert (await keyed.post(**{**search, "max_tokens": 20})).status == 429
    assert await keyed.metric("key_tokens_total") == {("alice", "prompt"): 4, ("alice", "generation"): 10}


@pytest.mark.parametrize("wrong", [{"n": 10**30}, {"max_tokens": -(10**12)}, {"n": -5}, {"max_tokens": 10**15}])
async def test_a_wrong_request_costs_no_tokens(tmp_path: Path, wrong: dict[str, Any]) -> None:
    keyed = Keyed(tmp_path, tokens_per_minute=10**6)
    before = await keyed.post(path="/tokenize")
    await keyed.post(**wrong)
    after = await keyed.post(path="/tokenize")
    spent = int(before.headers["x-ratelimit-remaining-tokens"]) - int(after.headers["x-ratelimit-remaining-tokens"])
    assert 0 <= spent <= 12


@pytest.mark.parametrize("stream", [False, True])
async def test_concurrency(tmp_path: Path, stream: bool) -> None:
    gate = asyncio.Event()
    keyed = Keyed(tmp_path, FakeEngine(script=lambda params: [gate.wait, *words(params)]), concurrency=2)
    running = [asyncio.create_task(keyed.post(stream=stream)) for _ in range(2)]
    while len(keyed.client.engine.submitted) < 2:
        await asyncio.sleep(0)
    third = await keyed.post()
    assert (third.status, third.error()["code"], third.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
    assert await keyed.metric("key_requests_open") == {("alice",): 2}
    gate.set()
    assert [answer.status for answer in await asyncio.gather(*running)] == [200, 200]
    assert (await keyed.post()).status == 200
    assert await keyed.metric("key_requests_open") == {("alice",): 0}


async def test_places_are_given_back_whatever_happens(tmp_path: Path) -> None:
    engine = FakeEngine(script=lambda params: [EngineFailed("it died")])
    keyed = Keyed(tmp_path, engine, concurrency=1)
    for stream in (False, True):
        assert (await keyed.post(stream=stream)).status == 500
    assert (await keyed.post(prompt=3)).status == 400
    engine.script = lambda params: 1 / 0  # type: ignore[assignment,return-value]
    assert (await keyed.post()).status == 500
    await keyed.client.call(
        "POST", TEXT, [b'{"prompt": "a"', None], {"content-length": "100", "authorization": f"Bearer {keyed._key}"}
    )
    engine.script = words
    assert (await keyed.post()).status == 200
