"""What only bare sockets can send."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from live import Inside, request_bytes, serving

from tradewind.server.listen import MAX_HEADER_BYTES


@pytest_asyncio.fixture
async def server(stories: Path) -> AsyncIterator[Inside]:
    async with serving(stories, max_model_len=4096) as inside:
        yield inside


async def exchange(server: Inside, *pieces: bytes) -> bytes:
    """Send the pieces, read until the answer is complete or the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    data = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    length = next(
        int(line.split(b":")[1]) for line in data.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    data += await asyncio.wait_for(reader.readexactly(length), 10)
    writer.close()
    return data


def status_and_error(data: bytes) -> tuple[int, str]:
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["message"]


async def test_a_10_mb_body(server: Inside) -> None:
    body = b'{"prompt": "' + b"x" * 10_000_000 + b'"}'
    status, message = status_and_error(await exchange(server, request_bytes("/v1/completions", body)))
    assert (status, "8.00 MiB" in message) == (413, True)


async def test_a_body_without_a_declared_end_is_cut_off_at_the_limit(server: Inside) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
    status, _ = status_and_error(await exchange(server, head, *[chunk] * 140))
    assert status == 413


@pytest.mark.parametrize("body", [b'{"prompt": "\xff\xff"}', b'{"prompt": ', b"\x00\x01\x02", b'{"temperature": NaN}'])
async def test_bytes_that_are_not_json(server: Inside, body: bytes) -> None:
    status, _ = status_and_error(await exchange(server, request_bytes("/v1/completions", body)))
    assert status == 400


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GARBAGE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http(server: Inside, junk: bytes) -> None:
    status, _ = status_and_error(await exchange(server, junk))
    assert status == 400


async def test_headers_without_end(server: Inside) -> None:
    """No more is sent than it takes to be refused: what the server has not read when it closes resets the connection.

    A header is known when the next one begins.
    """
    line = b"x-filler: " + b"y" * 1000 + b"\r\n"
    lines = [line] * (MAX_HEADER_BYTES // len(b"x-filler" + b"y" * 1000) + 2)
    status, _ = status_and_error(await exchange(server, b"GET /health HTTP/1.1\r\nhost: t\r\n", *lines))
    assert status == 400


async def test_two_requests_on_one_connection(server: Inside) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps({"prompt": "Once", "max_tokens": 2, "ignore_eos": True, "stream": True}).encode()
    writer.write(request_bytes("/v1/completions", body) * 2)
    data = b""
    while data.count(b"0\r\n\r\n") < 2:
        data += await asyncio.wait_for(reader.read(65536), 10)
    assert data.count(b"[DONE]") == 2
    writer.close()


async def test_expect_100_continue(server: Inside) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps({"prompt": "Once", "max_tokens": 2}).encode()
    request = request_bytes("/v1/completions", body, "expect: 100-continue")
    writer.write(request[: -len(body)])
    assert b"100 Continue" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(body)
    assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.close()
