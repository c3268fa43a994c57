"""Two tenants of one engine: neither can tell from cached prefixes, or from how long it waits, what the other sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from live import Inside, serving

from tradewind.server.key_file import add_key
from tradewind.server.keys import UNBOUNDED, Rates

PROMPT = list(range(3, 103))
BLOCK_TOKENS = 16


@pytest.fixture
async def tenants(stories: Path, tmp_path: Path) -> AsyncIterator[tuple[Inside, str, str]]:
    """A server on the fake device, and the keys of alice and bob."""
    alice = add_key(tmp_path / "keys", "alice", UNBOUNDED)
    bob = add_key(tmp_path / "keys", "bob", Rates(tokens_per_minute=1000))
    async with serving(stories, api_key_file=str(tmp_path / "keys"), block_tokens=BLOCK_TOKENS) as server:
        yield server, alice, bob


async def cached(server: Inside, key: str, salt: str | None = None, route: str = "completions") -> int:
    """How many of the prompt's tokens came from the prefix cache."""
    body: dict[str, object] = {"prompt": PROMPT, "max_tokens": 1, "cache_salt": salt}
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as client:
        answer = await client.post(f"{server.url}/v1/{route}", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_two_keys_share_no_cached_prefix(tenants: tuple[Inside, str, str]) -> None:
    server, alice, bob = tenants
    whole = len(PROMPT) // BLOCK_TOKENS * BLOCK_TOKENS
    assert await cached(server, alice) == 0
    assert await cached(server, alice) == whole  # one's own is shared
    for salt in (None, "", "alice", "alice\n", "\nalice", "bob\nalice"):
        assert await cached(server, bob, salt) == (whole if salt == "" else 0), salt
    assert await cached(server, alice, "mine") == 0
    assert await cached(server, alice, "mine") == whole
    assert await cached(server, bob, "mine") == 0


async def test_a_limit_refuses_at_once_and_says_when_to_come_again(tenants: tuple[Inside, str, str]) -> None:
    server, _, bob = tenants
    body = {"prompt": PROMPT, "max_tokens": 120, "ignore_eos": True}
    answers: list[httpx.Response] = []  # as they come
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {bob}"}) as client:

        async def ask() -> None:
            answers.append(await client.post(f"{server.url}/v1/completions", json=body))

        await asyncio.gather(*(ask() for _ in range(6)))
    assert [answer.status_code for answer in answers] == [429] * 2 + [200] * 4
    refused = answers[0]
    assert 1 <= int(refused.headers["retry-after"]) <= 14
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
    assert int(refused.headers["x-ratelimit-remaining-tokens"]) < 220
