"""What the person who starts the server sees: how far loading is, then where to go."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tradewind.base.units import format_bytes, format_seconds
from tradewind.config import ServerConfig

if TYPE_CHECKING:
    from tradewind.engine.client import AsyncEngine

_BAR_CELLS = 24


class LoadingLine:
    """Progress of the boot: one line that rewrites itself on a terminal, else one line per stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._stage = ""

    def show(self, stage: str, share: float) -> None:
        """The boot is at `stage`, of which `share` (0..1) is done."""
        if self._is_terminal:
            full = round(min(max(share, 0.0), 1.0) * _BAR_CELLS)
            bar = "━" * full + "─" * (_BAR_CELLS - full)
            self._stream.write(f"\r\x1b[K{bar} {share:4.0%}  {stage}")
            self._stream.flush()
        elif stage != self._stage:
            self._stream.write(f"tradewind: {stage}\n")
            self._stream.flush()
        self._stage = stage

    def clear(self) -> None:
        """Leave the line empty for what follows."""
        if self._is_terminal and self._stage:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def served_names(config: ServerConfig, model: str) -> tuple[str, ...]:
    """The names that clients may use. Without a setting: the model as it was given; a directory also by its name."""
    if config.served_model_name:
        return config.served_model_name
    name = Path(model).name
    return (name, model) if name and name != model and Path(model).is_dir() else (model,)


def url_of(host: str, port: int) -> str:
    """An address that can be opened from this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def greeting(engine: "AsyncEngine", config: ServerConfig, url: str, boot_s: float) -> str:
    """The URL, a line to paste, and what to try next."""
    ready = engine.ready
    name = config.served_model_name[0]
    chats = engine.tokenizer.chat_template is not None
    key = ' -H "Authorization: Bearer $TRADEWIND_API_KEY"' if config.api_key or config.api_key_file else ""
    body: dict[str, object]
    if chats:
        route, body = "chat/completions", {"model": name, "messages": [{"role": "user", "content": "Hello!"}]}
    else:
        route, body = "completions", {"model": name, "prompt": "Once upon a time", "max_tokens": 64}
    lines = [
        f"Tradewind serves {name} at {url} (ready in {format_seconds(boot_s)})",
        f"  {ready.device}, {ready.dtype}, weights {format_bytes(ready.weights_bytes)}, KV cache"
        f" {format_bytes(ready.kv_bytes)}, context {ready.max_model_len} tokens, up to {ready.max_running} at once",
        "",
        "Try it:",
        f"  curl {url}/v1/{route} -H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'",
        "",
        "Next:",
        f"  in a browser          {url}",
        f"  any OpenAI client     base_url={url}/v1",
        f"  its state             {url}/health, /metrics, /v1/models",
        "  stop                  Ctrl+C (running streams finish first)",
        "",
    ]
    return "\n".join(lines)


def say(text: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
