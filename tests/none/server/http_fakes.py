"""An engine without a process, and a way to call the application without a socket."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tradewind.base.errors import EngineUnavailable, TradewindError
from tradewind.config import ServerConfig
from tradewind.engine.beams import BeamSearch
from tradewind.engine.client import Delta, RequestTimings, Usage
from tradewind.engine.history import TokenTime
from tradewind.protocol.messages import Ready
from tradewind.protocol.request import FinishReason
from tradewind.protocol.result import EngineStats, TokenLogprobs
from tradewind.protocol.sampling import BeamSearchParams, SamplingParams
from tradewind.protocol.snapshot import EngineView
from tradewind.protocol.validate import validate, validate_beams
from tradewind.server.app import create_app
from tradewind.server.service import Limits
from tradewind.text.generation import GenerationDefaults

VOCAB = 256
END_ID = 10  # of searches


class FakeTemplate:
    """Roles and contents, one a line."""

    source = ""

    def __init__(self) -> None:
        self.written: list[int] = []  # how many messages each time

    def render(self, messages: list[dict[str, Any]], **options: Any) -> str:
        self.options = options
        self.messages = messages
        self.written.append(len(messages))
        lines = [f"{message['role']}: {_plain(message.get('content'))}" for message in messages]
        return "\n".join(lines) + ("\nassistant:" if options.get("add_generation_prompt") else "")


def _plain(content: Any) -> Any:
    return "".join(part["text"] for part in content) if isinstance(content, list) else content


class FakeTokenizer:
    """One token per byte."""

    vocab_size = VOCAB
    special_ids: frozenset[int] = frozenset()

    def id_of(self, token: str) -> int | None:
        return None

    def __init__(self) -> None:
        self.chat_template: Any = FakeTemplate()
        self.encoded_in: set[int] = set()  # threads
        self.named_in: set[int] = set()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        self.encoded_in.add(threading.get_ident())
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str], add_special_tokens: bool = True) -> list[list[int]]:
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode("utf-8", "replace")

    def token_text(self, token_id: int) -> str:
        self.named_in.add(threading.get_ident())
        return self.decode([token_id])

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])


class FakeStream:
    """Plays a list of deltas; an error in the list is raised, a callable is called."""

    def __init__(self, script: list[Any], prompt_tokens: int, request_ids: list[int]) -> None:
        self._script = script
        self.request_ids = request_ids
        self._open = True
        self.aborted = False
        self._prompt_tokens = prompt_tokens
        self._said = 0

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._said, cached_tokens=1)

    @property
    def has_begun(self) -> bool:
        return self._said > 0

    def abort(self) -> None:
        self.aborted = True

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        for item in self._script:
            await asyncio.sleep(0)
            if self.aborted:
                yield [Delta(index=0, text="", token_ids=[], finish_reason=FinishReason.ABORT)]
                return
            if isinstance(item, TradewindError):
                raise item
            if callable(item):
                await item()
                continue
            self._said += sum(len(delta.token_ids) for delta in item)
            yield item


def words(params: SamplingParams, text: str = "Hi there") -> list[list[Delta]]:
    """One token a character, for each of n choices in turn, cut at max_tokens."""
    count = min(len(text), params.max_tokens or len(text))
    script = []
    for place, letter in enumerate(text[:count]):
        last = place == count - 1
        reason = (FinishReason.STOP if count == len(text) else FinishReason.LENGTH) if last else None
        script.append([_delta(index, letter, reason, params) for index in range(params.n)])
    return script


def _delta(index: int, letter: str, reason: FinishReason | None, params: SamplingParams) -> Delta:
    token = ord(letter)
    logprobs = None
    if params.logprobs is not None:
        top = [token, 1, 2][: params.logprobs]
        logprobs = [TokenLogprobs([token, *top], [-0.5, *(-0.5 - 0.25 * i for i in range(len(top)))], 1)]
    return Delta(index=index, text=letter, token_ids=[token], logprobs=logprobs, finish_reason=reason)


@dataclass
class FakeEngine:
    """What the server uses of AsyncEngine."""

    state: str = "ready"
    failure: str | None = None
    script: Callable[[SamplingParams], list[Any]] = words
    refusal: TradewindError | None = None
    tokenizer: FakeTokenizer = field(default_factory=FakeTokenizer)
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    stats: EngineStats = field(default_factory=EngineStats)
    restarts: int = 0
    seen: EngineView | TradewindError = field(default_factory=lambda: EngineUnavailable("no view"))
    past: dict[int, RequestTimings] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    compiled: list[Any] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    works: int = 0
    open_sequences: int = 0
    ready: Ready = field(
        default_factory=lambda: Ready(
            max_model_len=512,
            vocab_size=VOCAB,
            max_running=8,
            num_blocks=64,
            block_tokens=16,
            step_tokens=128,
            device="fake",
            dtype="none",
            weights_bytes=0,
            kv_bytes=0,
            boot_s=0.0,
            implementations={},
        )
    )

    def subscribe(self, listener: Any) -> None:
        self.listener = listener

    async def view(self) -> EngineView:
        if isinstance(self.seen, TradewindError):
            raise self.seen
        return self.seen

    def timings(self, request_id: int) -> RequestTimings | None:
        return self.past.get(request_id)

    def tokens_of(self, timings: RequestTimings) -> list[TokenTime]:
        start_s = timings.submitted_s + (timings.ttft_s or 0.0)
        return [TokenTime(start_s + 0.5 * index, 3) for index in range(timings.completion_tokens)]

    async def compile(self, params: SamplingParams, field: str = "structured_outputs") -> None:
        self.compiled.append((params.structured_outputs, field))

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        self.works += 1
        yield
        self.works -= 1

    def begin_search(self, prompt_tokens: list[int], params: BeamSearchParams) -> BeamSearch:
        validate_beams(params, VOCAB, 20)
        return BeamSearch(params, params.max_tokens or 16, frozenset() if params.ignore_eos else frozenset({END_ID}))

    def end_search(self, prompt_tokens: list[int], search: BeamSearch) -> list[Delta]:
        return [
            Delta(
                index=index,
                text=self.tokenizer.decode([token for token in beam.tokens if token != END_ID]),
                token_ids=beam.tokens,
                logprobs=beam.positions,
                finish_reason=beam.finish_reason,
            )
            for index, beam in enumerate(search.best())
        ]

    def submit(self, prompt_tokens: list[int], params: SamplingParams, **rest: Any) -> FakeStream:
        validate(params, VOCAB, 20)
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append({"prompt_tokens": prompt_tokens, "params": params, **rest})
        script = self.script(params)
        if params.prompt_logprobs is not None:
            some = [None, *(TokenLogprobs([token], [-1.0], 1) for token in prompt_tokens[1:])]
            opening = script[0][0]
            script[0][0] = Delta(
                **{**{name: getattr(opening, name) for name in opening.__struct_fields__}, "prompt_logprobs": some}
            )
        first = sum(len(stream.request_ids) for stream in self.streams)
        stream = FakeStream(script, len(prompt_tokens), list(range(first, first + params.n)))
        self.streams.append(stream)
        return stream


@dataclass
class Answer:
    """What the application said."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of each event, decoded; "[DONE]" as it is."""
        assert self.headers["content-type"].startswith("text/event-stream"), self.body
        parts = self.body.decode().split("\n\n")
        assert parts[-1] == ""
        datas = [part.removeprefix("data: ") for part in parts[:-1]]
        return [data if data == "[DONE]" else json.loads(data) for data in datas]

    def error(self) -> dict[str, Any]:
        """The error object, whose shape is checked."""
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return dict(error)


class Caller:
    """Calls an application over one engine, without sockets."""

    def __init__(self, engine: FakeEngine | None = None, *, limits: Limits | None = None, **config: Any) -> None:
        self.engine = engine or FakeEngine()
        config.setdefault("served_model_name", ("tiny", "alias"))
        self.app = create_app(self.engine, ServerConfig(**config), limits)  # type: ignore[arg-type]

    async def post(self, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str) -> Answer:
        data = json.dumps(body).encode() if raw is None else raw
        return await self.call("POST", path, data, {"content-type": "application/json", **headers})

    async def get(self, path: str, query: str = "", **headers: str) -> Answer:
        return await self.call("GET", path, b"", headers, query=query)

    async def call(  # a piece that is None: the client goes away there
        self,
        method: str,
        path: str,
        body: bytes | list[bytes | None],
        headers: dict[str, str],
        gone: asyncio.Event | None = None,
        query: str = "",
        answer: Answer | None = None,  # written to as it comes
    ) -> Answer:
        pieces = [body] if isinstance(body, bytes) else list(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "headers": [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }
        answer = answer or Answer(0, {}, b"", False)

        async def receive() -> dict[str, Any]:
            if pieces:
                piece = pieces.pop(0)
                if piece is None:
                    return {"type": "http.disconnect"}
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")
                answer.complete = not message.get("more_body", False)

        await self.app(scope, receive, send)
        return answer
