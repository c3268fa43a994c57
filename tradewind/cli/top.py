"""`tradewind top`: a server's engine in the terminal, from its URL."""

import argparse
import json
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tradewind.base.errors import ConfigError, TradewindError
from tradewind.base.units import format_bytes, format_seconds

State = dict[str, Any]

TIMEOUT_S = 10.0
CHART_CELLS = 60
MAP_LINES = 4
MOST_ROWS = 24
_BARS = " ▁▂▃▄▅▆▇█"
_FREE, _CACHED, _SHARED = -1, -2, -3
_STYLES = {_FREE: "bright_black", _CACHED: "blue", _SHARED: "white"}
_COLOURS = (
    "cyan",
    "yellow",
    "magenta",
    "green",
    "red",
    "bright_cyan",
    "bright_yellow",
    "bright_magenta",
    "bright_green",
)


class Unreachable(TradewindError):
    """The server does not answer, or not as one of ours."""


@dataclass(frozen=True)
class Server:
    """Where to look."""

    url: str
    api_key: str | None

    def state(self) -> State:
        """Its /engine/state. Raises Unreachable."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        request = urllib.request.Request(f"{self.url}/engine/state", headers=headers)
        # No proxy of the environment's: servers to look at are near.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                state: State = json.load(answer)
        except urllib.error.HTTPError as error:
            hint = "; give its key with --api-key" if error.code == 401 else ""
            raise Unreachable(f"{self.url} answered with status {error.code}{hint}") from None
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.url} cannot be reached: {error}") from None
        return state


@dataclass(frozen=True)
class Rates:
    """What happened between two states; None where nothing can be said."""

    output_tokens_s: float
    prompt_tokens_s: float
    step_s: float | None
    inter_token_s: tuple[float | None, float | None]  # median, 95 %
    first_token_s: tuple[float | None, float | None]


def run(arguments: argparse.Namespace) -> int:
    """Show the engine until interrupted, or once; returns the exit status."""
    server = Server(address(arguments.url), arguments.api_key)
    console = Console(highlight=False)
    before = server.state()
    history: deque[Rates] = deque(maxlen=CHART_CELLS)
    if arguments.once:
        time.sleep(arguments.interval)
        now = server.state()
        console.print(frame(now, _collect(before, now, history), console.width))
        return 0
    with Live(frame(before, history, console.width), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(arguments.interval)
            now = server.state()
            live.update(frame(now, _collect(before, now, history), console.width), refresh=True)
            before = now


def address(url: str) -> str:
    """`url` with its scheme and without its last slash. Raises ConfigError unless it is one of HTTP."""
    full = (url if "://" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
    if not full.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is not an address of the form http://HOST:PORT")
    return full


def _collect(before: State, now: State, history: deque[Rates]) -> deque[Rates]:
    found = rates(before, now)
    if found is None:
        history.clear()  # another life of the engine
    else:
        history.append(found)
    return history


# --- figures ---------------------------------------------------------------------------------------------------------


def rates(before: State, now: State) -> Rates | None:
    """The rates between two states; None if the engine began again between them."""
    seconds = now["time_s"] - before["time_s"]
    grown = {name: value - before["stats"][name] for name, value in now["stats"].items()}
    if seconds <= 0 or grown["steps"] < 0:
        return None
    busy_s = grown["host_s"] + grown["device_s"]
    return Rates(
        output_tokens_s=grown["output_tokens"] / seconds,
        prompt_tokens_s=grown["prompt_tokens"] / seconds,
        step_s=busy_s / grown["steps"] if grown["steps"] else None,
        inter_token_s=_quantiles(before, now, "inter_token"),
        first_token_s=_quantiles(before, now, "time_to_first_token"),
    )


def _quantiles(before: State, now: State, name: str) -> tuple[float | None, float | None]:
    histogram = now["latency"][name]
    old = before["latency"][name]["counts"]
    counts = [count - less for count, less in zip(histogram["counts"], old, strict=True)]
    return quantile(0.5, histogram["bounds"], counts), quantile(0.95, histogram["bounds"], counts)


def quantile(share: float, bounds: list[float], counts: list[int]) -> float | None:
    """A quantile of a histogram (`counts[i]` values up to `bounds[i]`, the last above all), linear within a bucket."""
    left = share * sum(counts)
    if left <= 0:
        return None
    low = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count >= left:
            return low + (bound - low) * left / count
        left -= count
        low = bound
    return low


# --- what is seen ----------------------------------------------------------------------------------------------------


def frame(state: State, history: deque[Rates], width: int) -> Group:
    """Everything, for a terminal `width` columns wide."""
    parts: list[ConsoleRenderable] = [
        _title(state),
        _figures(state, history[-1] if history else None),
        _charts(history),
    ]
    if state["blocks"] is not None:
        parts += [Text("KV blocks", "bold"), block_map(state["blocks"]["runs"], width)]
    parts.append(_rows(state))
    spaced: list[ConsoleRenderable] = [item for part in parts for item in (part, Text())]
    return Group(*spaced)


def _title(state: State) -> Text:
    engine = state["engine"]
    title = Text.assemble(("Tradewind ", "bold"), (state["status"], "green" if state["status"] == "ready" else "red"))
    title.append(f"  {state['model']}")
    if engine is not None:
        title.append(f"  {engine['device']}, {engine['dtype']}, context {engine['max_model_len']}", "dim")
    if state["message"]:
        title.append(f"\n{state['message']}", "red")
    return title


def _figures(state: State, last: Rates | None) -> Table:
    stats, engine = state["stats"], state["engine"]
    table = Table.grid(padding=(0, 3))
    kv = f"{_share(stats['blocks_used'], stats['blocks_total'])} of {format_bytes(engine['kv_bytes'] if engine else 0)}"
    running = f"{stats['running']} of {engine['max_running'] if engine else 0}"
    table.add_row(*_pair("running", running), *_pair("waiting", stats["waiting"]), *_pair("KV in use", kv))
    table.add_row(
        *_pair("output", f"{last.output_tokens_s:,.1f} tok/s" if last else "-"),
        *_pair("prompt", f"{last.prompt_tokens_s:,.1f} tok/s" if last else "-"),
        *_pair("prefix hits", _share(stats["prefix_hit_tokens"], stats["prefix_query_tokens"])),
    )
    table.add_row(
        *_pair("step", _time(last.step_s if last else None)),
        *_pair("preemptions", stats["preemptions"]),
        *_pair("restarts", state["restarts"]),
    )
    return table


def _pair(name: str, value: object) -> tuple[Text, Text]:
    return Text(name, "dim"), Text(str(value), "bold")


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)


def _charts(history: deque[Rates]) -> Table:
    table = Table.grid(padding=(0, 2))
    last = history[-1] if history else None
    lines = (
        ("output", [each.output_tokens_s for each in history], f"{last.output_tokens_s:,.1f} tok/s" if last else "-"),
        ("between tokens", [each.inter_token_s[0] for each in history], _two(last.inter_token_s if last else None)),
        ("first token", [each.first_token_s[0] for each in history], _two(last.first_token_s if last else None)),
    )
    for name, values, said in lines:
        table.add_row(Text(name, "dim"), Text(sparkline(values).ljust(CHART_CELLS), "cyan"), said)
    return table


def _two(quantiles: tuple[float | None, float | None] | None) -> str:
    median, high = quantiles or (None, None)
    return f"p50 {_time(median)}, p95 {_time(high)}"


def sparkline(values: Sequence[float | None]) -> str:
    """A character for each value, as high as its share of the largest; a blank for none."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    steps = len(_BARS) - 1
    return "".join(_BARS[0 if not value else max(1, round(steps * value / top))] for value in values)


def block_map(runs: list[list[int]], width: int) -> Text:
    """The pool in at most MAP_LINES lines: each character stands for as many blocks, in the colour of one of them.

    That is the first one that is not free, if there is one.
    """
    cells = [owner for owner, length in runs for _ in range(length)]
    each = max(1, -(-len(cells) // (width * MAP_LINES)))
    text = Text()
    for start in range(0, len(cells), each):
        part = cells[start : start + each]
        owner = next((owner for owner in part if owner != _FREE), _FREE)
        text.append("·" if owner == _FREE else "▒" if owner == _CACHED else "█", _style(owner))
    return text


def _style(owner: int) -> str:
    return _STYLES.get(owner) or _COLOURS[owner % len(_COLOURS)]


def _rows(state: State) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim", title_justify="left")
    for name in ("request", "state"):
        table.add_column(name, no_wrap=True, max_width=34)
    for name in ("prompt", "output", "most", "blocks", "age"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in state["rows"][:MOST_ROWS]:
        mark = Text("█ ", _style(row["request_id"]) if row["blocks"] else "bright_black")
        mark.append(row["request"] or f"sequence {row['request_id']}", "default")
        numbers = (row["prompt_tokens"], row["output_tokens"], row["max_tokens"], row["blocks"])
        table.add_row(mark, row["state"], *(str(number) for number in numbers), format_seconds(row["age_s"]))
    hidden = state["stats"]["running"] + state["stats"]["waiting"] - min(len(state["rows"]), MOST_ROWS)
    if hidden > 0 and state["rows"]:
        table.add_row(Text(f"and {hidden} more", "dim"))
    return table
