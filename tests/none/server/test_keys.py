"""Keys from a file: made, kept as hashes, found, read again; and what one caller may not see of another."""

import hashlib
import os
from pathlib import Path

import pytest
from http_fakes import Caller as Client
from http_fakes import FakeEngine
from hypothesis import given
from hypothesis import strategies as st

from tradewind.base.errors import ConfigError, Unauthorized
from tradewind.cli.main import main
from tradewind.protocol.result import EngineStats
from tradewind.protocol.snapshot import FREE, BlockMap, EngineView
from tradewind.server.key_file import LOOK_EVERY_S, KeyFile, add_key, new_key, parse
from tradewind.server.keys import ONLY_KEY, UNBOUNDED, ApiKeys, Caller, Rates, SingleKey

TEXT = "/v1/completions"
HASH = f"sha256:{'0' * 16}:{'a' * 64}"


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def bearer(key: str) -> bytes:
    return b"Bearer " + key.encode()


def test_a_key_opens_and_only_its_hash_is_kept(file: Path) -> None:
    alice, bob = add_key(file, "alice", Rates(concurrency=2)), add_key(file, "bob", UNBOUNDED)
    assert len(alice) > 60
    assert alice != bob
    text = file.read_text()
    for key in (alice, bob):
        assert key not in text
        assert key.split("-", 2)[2] not in text
        assert hashlib.sha256(key.encode()).hexdigest() in text
    assert file.stat().st_mode & 0o077 == 0
    keys = ApiKeys([KeyFile(file)])
    assert keys.identify(bearer(alice)) == Caller("alice", Rates(concurrency=2))
    assert keys.identify(bearer(bob)) == Caller("bob")


def test_near_misses_do_not_open(file: Path) -> None:
    key = add_key(file, "alice", UNBOUNDED)
    other, _ = new_key("alice", UNBOUNDED)
    keys = ApiKeys([KeyFile(file)])
    _, salt, secret = key.split("-", 2)
    wrong = (
        key[:-1],
        key + "x",
        key.upper(),
        other,
        f"tw-{salt}-{other.split('-', 2)[2]}",
        secret,
        salt,
        "",
        "tw-",
        "--",
    )
    for attempt in wrong:
        with pytest.raises(Unauthorized):
            keys.identify(bearer(attempt))
    for header in (None, b"", b"Bearer", b"Basic " + key.encode(), key.encode()):
        with pytest.raises(Unauthorized):
            keys.identify(header)


def test_a_file_without_keys_is_closed_to_all(file: Path) -> None:
    file.write_text("# nobody yet\n\n")
    with pytest.raises(Unauthorized):
        ApiKeys([KeyFile(file)]).identify(b"Bearer x")
    assert ApiKeys().identify(None) == Caller()


def test_a_single_key_beside_a_file(file: Path) -> None:
    key = add_key(file, "alice", UNBOUNDED)
    keys = ApiKeys([SingleKey("sesame"), KeyFile(file)])
    assert keys.identify(b"Bearer sesame").name == ONLY_KEY
    assert keys.identify(bearer(key)).name == "alice"
    with pytest.raises(ConfigError, match=ONLY_KEY):
        add_key(file, ONLY_KEY, UNBOUNDED)


def test_two_keys_of_one_caller(file: Path) -> None:
    rates = Rates(requests_per_minute=5)
    old, new = add_key(file, "alice", rates), add_key(file, "alice", UNBOUNDED)
    keys = ApiKeys([KeyFile(file)])
    assert keys.identify(bearer(old)) == keys.identify(bearer(new)) == Caller("alice", rates)
    with pytest.raises(ConfigError, match="other limits"):
        add_key(file, "alice", Rates(requests_per_minute=6))


def test_a_file_that_ends_within_a_line_gets_one(file: Path) -> None:
    file.write_text(f"alice {HASH}")
    add_key(file, "bob", UNBOUNDED)
    assert [line.caller.name for line in parse(file.read_text())] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("alice", "second word must be a hash"),
        ("alice sesame", "second word must be a hash"),
        (f"alice {HASH.upper()}", "second word must be a hash"),
        (f"al/ice {HASH}", "a name has letters"),
        (f"{'x' * 65} {HASH}", "a name has letters"),
        (f"{ONLY_KEY} {HASH}", "--api-key"),
        (f"alice {HASH} speed=1", "must be one of requests_per_minute, tokens_per_minute, concurrency"),
        (f"alice {HASH} concurrency=0", "concurrency must be a whole number"),
        (f"alice {HASH} concurrency=1.5", "concurrency must be a whole number"),
        (f"alice {HASH} concurrency=-1", "concurrency must be a whole number"),
        (f"alice {HASH} concurrency={'9' * 5000}", "concurrency must be a whole number"),
        (f"alice {HASH} concurrency=1 concurrency=1", "there twice"),
        (f"bob {HASH}", "the same key"),
        (f"bob {HASH.replace('0', '1')} concurrency=3", "other limits"),
    ],
)
def test_a_malformed_line_is_named_and_not_shown(line: str, what: str) -> None:
    with pytest.raises(ConfigError, match=r"the key file, line 3: ") as caught:
        parse(f"# a comment\nbob {HASH}  # and another\n{line}\n")
    assert what in caught.value.message
    assert "sesame" not in caught.value.message


def test_a_change_is_seen_and_a_fault_keeps_the_old_keys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    alice = add_key(file, "alice", UNBOUNDED)
    keys = ApiKeys([KeyFile(file, clock)])
    bob = add_key(file, "bob", UNBOUNDED)
    with pytest.raises(Unauthorized):
        keys.identify(bearer(bob))  # not looked at again so soon
    clock.now_s += LOOK_EVERY_S
    assert keys.identify(bearer(bob)).name == "bob"
    good = file.read_text()
    with caplog.at_level("ERROR", "tradewind.server.key_file"):
        for fault in (lambda: file.write_text(good + "carol\n"), file.unlink):
            fault()
            clock.now_s += LOOK_EVERY_S
            assert keys.identify(bearer(alice)).name == "alice"
            clock.now_s += LOOK_EVERY_S
            assert keys.identify(bearer(bob)).name == "bob"
    assert len(caplog.records) == 2
    assert f"{file}, line 3" in caplog.records[0].getMessage()
    file.write_text("\n".join(line for line in good.splitlines() if line.startswith("bob")))
    clock.now_s += LOOK_EVERY_S
    assert keys.identify(bearer(bob)).name == "bob"
    with pytest.raises(Unauthorized):
        keys.identify(bearer(alice))


def test_other_limits_of_a_caller_are_seen(file: Path) -> None:
    clock = Clock()
    key = add_key(file, "alice", Rates(concurrency=1))
    keys = ApiKeys([KeyFile(file, clock)])
    file.write_text(file.read_text().replace("concurrency=1", "concurrency=22"))
    clock.now_s += LOOK_EVERY_S
    assert keys.identify(bearer(key)).rates.concurrency == 22


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)


@given(NAMES, NAMES, st.text(), st.text())
def test_no_two_callers_share_a_salt(one: str, other: str, its: str, others: str) -> None:
    assert (Caller(one).salt(its) == Caller(other).salt(others)) == ((one, its) == (other, others))
    assert Caller(one).salt(None) == Caller(one).salt("")
    assert Caller().salt(its) == its


# --- over HTTP -------------------------------------------------------------------------------------------------------


async def test_a_servers_keys(file: Path) -> None:
    alice, bob = add_key(file, "alice", UNBOUNDED), add_key(file, "bob", UNBOUNDED)
    client = Client(api_key_file=str(file))
    for path in ("/health", "/ready", "/version", "/metrics", "/"):
        assert (await client.get(path)).status == 200
    assert (await client.post(TEXT, {"prompt": "a"})).status == 401
    for key, salt in ((alice, None), (alice, "s"), (bob, "s")):
        body = {"prompt": "a", "cache_salt": salt}
        assert (await client.post(TEXT, body, authorization=f"Bearer {key}")).status == 200
    assert (await client.post("/v1/messages", {}, x_api_key=bob)).status == 400
    assert [job["cache_salt"] for job in client.engine.submitted] == ["alice\n", "alice\ns", "bob\ns"]


async def test_refusals_are_in_the_shape_of_the_route(file: Path) -> None:
    add_key(file, "alice", UNBOUNDED)
    client = Client(api_key_file=str(file))
    answer = await client.post("/v1/messages", {}, x_api_key="wrong")
    assert answer.status == 401
    assert answer.json() == {"type": "error", "error": {"type": "authentication_error", "message": "wrong API key"}}
    assert (await client.post(TEXT, {})).error()["code"] == "invalid_api_key"


async def test_one_callers_requests_are_unknown_to_others(file: Path) -> None:
    alice, bob = add_key(file, "alice", UNBOUNDED), add_key(file, "bob", UNBOUNDED)
    view = EngineView(stats=EngineStats(), rows=[], blocks=BlockMap(owners=[FREE], lengths=[64]))
    client = Client(FakeEngine(seen=view), api_key_file=str(file))
    for key in (alice, bob):  # the same id, of two callers
        await client.post(TEXT, {"prompt": "secret words"}, authorization=f"Bearer {key}", x_request_id="r")
    await client.post(TEXT, {"prompt": "secret words"}, authorization=f"Bearer {alice}", x_request_id="a")
    for key, request, status in ((alice, "r", 200), (bob, "r", 200), (alice, "a", 200), (bob, "a", 404)):
        answer = await client.get(f"/engine/requests/{request}", authorization=f"Bearer {key}")
        assert answer.status == status
        assert b"secret" not in answer.body
    state = await client.get("/engine/state", authorization=f"Bearer {bob}")
    assert state.status == 200
    assert b"secret" not in state.body


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_a_key_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "alice", "--file", str(file), "--tokens-per-minute", "500"]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert ApiKeys([KeyFile(file)]).identify(bearer(key)) == Caller("alice", Rates(tokens_per_minute=500))
    assert key not in said.err
    assert main(["keys", "list", "--file", str(file)]) == 0
    assert capsys.readouterr().out == "alice: 1 key, tokens_per_minute 500\n"


def test_the_command_says_what_is_wrong(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "--file", str(file)]) == 2
    assert main(["keys", "new", "a/b", "--file", str(file)]) == 2
    assert main(["keys", "list", "--file", str(file)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    file.write_text("alice\n")
    assert main(["keys", "new", "bob", "--file", str(file)]) == 2
    assert "line 1" in capsys.readouterr().err
    assert file.read_text() == "alice\n"
    with pytest.raises(SystemExit):
        main(["keys", "new", "bob", "--file", os.devnull, "--concurrency", "0"])


def test_a_server_does_not_start_with_a_malformed_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(f"alice {HASH} concurrency=x\n")
    assert main(["serve", "demo", "--port", "0", "--api-key-file", str(file)]) == 1
    assert f"{file}, line 1: concurrency must be a whole number" in capsys.readouterr().err
