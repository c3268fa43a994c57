"""A streaming HTTP/1.1 client that costs the machine little, since it often shares it with the server."""

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools
import msgspec


@dataclass(frozen=True)
class Endpoint:
    """Where a server is, and the key it wants."""

    host: str
    port: int
    api_key: str | None = None

    @classmethod
    def parse(cls, url: str, api_key: str | None = None) -> "Endpoint":
        """From `http://HOST:PORT` (only plain HTTP)."""
        parts = urlsplit(url if "//" in url else f"//{url}")
        if parts.scheme not in ("", "http") or parts.hostname is None:
            raise ValueError(f"{url!r} is not an address of the form http://HOST:PORT")
        return cls(parts.hostname, parts.port or 80, api_key)


class HttpError(Exception):
    """The server's answer was not 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:300].decode(errors='replace')}")
        self.status = status


class _Body:
    """Callbacks of httptools: collects what has arrived of one response."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.arrived: list[bytes] = []
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.arrived.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def take(self) -> bytes:
        data = b"".join(self.arrived)
        self.arrived.clear()
        return data


async def post(endpoint: Endpoint, path: str, body: object) -> AsyncGenerator[bytes, None]:
    """POST `body` as JSON on a connection of its own; yields the answer's bytes as they come. Raises HttpError."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(_request(endpoint, "POST", path, msgspec.json.encode(body)))
        response = _Body()
        while not response.complete:
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("the server closed the connection in the middle of an answer")
            response.parser.feed_data(data)
            if (status := response.parser.get_status_code()) != 200:
                raise HttpError(status, response.take())
            if response.arrived:
                yield response.take()
    finally:
        writer.close()


async def get(endpoint: Endpoint, path: str) -> tuple[int, bytes]:
    """GET; the status and the whole body."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(_request(endpoint, "GET", path, b""))
        response = _Body()
        while not response.complete:
            data = await reader.read(65536)
            if not data:
                break
            response.parser.feed_data(data)
        return response.parser.get_status_code(), response.take()
    finally:
        writer.close()


async def served_model(endpoint: Endpoint) -> str:
    """The first name that /v1/models lists."""
    status, body = await get(endpoint, "/v1/models")
    if status != 200:
        raise HttpError(status, body)
    return str(msgspec.json.decode(body)["data"][0]["id"])


async def when_ready(endpoint: Endpoint, timeout_s: float = 300.0) -> str:
    """`served_model`, as soon as the server answers. TimeoutError if it does not."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        try:
            return await served_model(endpoint)
        except (OSError, HttpError) as error:
            if isinstance(error, HttpError) and error.status != 503:
                raise
            await asyncio.sleep(0.02)
    raise TimeoutError(f"no answer within {timeout_s:g} s")


def _request(endpoint: Endpoint, method: str, path: str, body: bytes) -> bytes:
    key = f"Authorization: Bearer {endpoint.api_key}\r\n" if endpoint.api_key else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {endpoint.host}:{endpoint.port}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
