"""No path and no URL that a request names is ever opened: not by us, and not by what we use."""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import serving

SECRET = "the-secret-of-the-file"
CHAT, TEXT, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/messages"
SEEN: list[str] = []
WATCHED: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if WATCHED and event in (
        "open",
        "os.listdir",
        "os.scandir",
        "socket.connect",
        "socket.getaddrinfo",
        "urllib.Request",
    ):
        text = repr(arguments)
        SEEN.extend(f"{event} {text}" for name in WATCHED if name in text)


sys.addaudithook(_hook)  # for the life of the process: there is no taking it away


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A file that would work as anything, and that the interpreter watches over."""
    path = tmp_path / "watched-file.json"
    path.write_text(json.dumps({"type": "string", "const": SECRET}))
    WATCHED.append(path.name)
    SEEN.clear()
    yield path
    WATCHED.clear()


def requests(place: str) -> list[tuple[str, dict[str, Any]]]:
    """Bodies that name `place` wherever a path or a URL could stand."""

    def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": "hi"}, *parts]}]

    plain = [{"role": "user", "content": "hi"}]
    reference = {"type": "object", "properties": {"a": {"$ref": place}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": reference}}
    parts = [
        {"type": "image_url", "image_url": {"url": place}},
        {"type": "video_url", "video_url": {"url": place}},
        {"type": "audio_url", "audio_url": {"url": place}},
        {"type": "input_audio", "input_audio": {"data": place, "format": "wav"}},
        {"type": "file", "file": {"file_id": place, "filename": place}},
        {"type": "image_embeds", "image_embeds": place},
    ]
    sources = [{"type": "url", "url": place}, {"type": "file", "file_id": place}]
    blocks = [{"type": kind, "source": source} for kind in ("image", "document") for source in sources]
    return [
        *((CHAT, {"messages": user(part)}) for part in parts),
        *((MESSAGES, {"max_tokens": 3, "messages": user(block)}) for block in blocks),
        *((path, {"model": place, "messages": plain, "max_tokens": 3}) for path in (CHAT, MESSAGES)),
        (TEXT, {"prompt": place, "max_tokens": 3}),
        (TEXT, {"prompt": "a", "max_tokens": 3, "lora_path": place, "lora_request": {"path": place}}),
        (TEXT, {"prompt": "a", "structured_outputs": {"json": reference}}),
        (TEXT, {"prompt": "a", "structured_outputs": {"json": json.dumps({"$id": place, **reference})}}),
        (TEXT, {"prompt": "a", "structured_outputs": {"grammar": f'%import "{place}"\nstart: "a"'}}),
        (TEXT, {"prompt": "a", "structured_outputs": {"grammar": f"%import .{place}.X\nstart: X"}}),
        (TEXT, {"prompt": "a", "structured_outputs": {"regex": f"(?i){place}"}, "max_tokens": 3}),
        (CHAT, {"messages": plain, "response_format": {"type": "json_schema", "json_schema": {"schema": reference}}}),
        (CHAT, {"messages": plain, "tools": [tool], "tool_choice": "required"}),
        (CHAT, {"messages": plain, "chat_template": f"{{% include '{place}' %}}"}),
        (CHAT, {"messages": plain, "max_tokens": 3, "chat_template_kwargs": {"chat_template": place}}),
        ("/tokenize", {"prompt": place}),
        ("/tokenize", {"model": place, "prompt": "a"}),
    ]


async def test_neither_files_nor_addresses_are_opened(stories: Path, chat_template: Path, file: Path) -> None:
    callers: list[Any] = []

    async def on_connection(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer.get_extra_info("peername"))
        writer.close()

    listener = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    places = (str(file), f"file://{file}", f"http://127.0.0.1:{port}/{file.name}", f"../../../../../..{file}")
    async with serving(stories, chat_template=str(chat_template)) as server, httpx.AsyncClient(verify=False) as client:
        WATCHED.append(f"127.0.0.1', {port}")
        answers = [
            (path, body, await client.post(server.url + path, json=body))
            for place in places
            for path, body in requests(place)
        ]
        answers += [
            (path, {}, await client.get(f"{server.url}{path}"))
            for path in (f"/playground/x/{file}", f"/playground/..%2f..{file}", f"/v1/models/{file}")
        ]
    listener.close()
    await listener.wait_closed()
    assert SEEN == []
    assert callers == []
    for path, body, answer in answers:
        assert answer.status_code < 500, (path, body, answer.text)
        assert SECRET not in answer.text
        refers_to_itself = "$id" in str(body)
        if not refers_to_itself and any(
            word in str(body) for word in ("_url", "source", "$ref", "'chat_template': \"{%", "'file_id'")
        ):
            assert answer.status_code == 400, (path, body, answer.text)


def test_the_watch_sees_an_open(file: Path) -> None:
    file.read_text()
    assert len(SEEN) == 1
