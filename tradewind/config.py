"""The tree of settings: frozen dataclasses, one per part. Each part receives only its own.

A setting is declared once, here; the command line, `LLM(...)` and the engine process all read this tree. `None` means
that the engine decides, by measuring. The order of precedence is: explicit value, then default; nothing is read from
the environment.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from tradewind.base.errors import ConfigError
from tradewind.base.units import parse_bytes

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    aliases: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    is_bytes: bool = False,
    metavar: str | None = None,
) -> Any:
    """One setting. `aliases` are other option names for it (vLLM's, where they differ); `low`/`high` are inclusive."""
    metadata = {"help": help, "aliases": aliases, "low": low, "high": high, "is_bytes": is_bytes, "metavar": metavar}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, and in which form."""

    model: str = setting("demo", "a local directory, a Hugging Face repository id, or 'demo' (the built-in model)")
    revision: str | None = setting(None, "branch, tag or commit of the Hugging Face repository")
    tokenizer: str | None = setting(None, "directory or repository of the tokenizer, if not the model's own")
    chat_template: str | None = setting(None, "file with a Jinja chat template, if not the model's own")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting("auto", "type of weights and activations")
    load_format: Literal["auto", "dummy"] = setting("auto", "'dummy' fills random weights from config.json alone")
    max_model_len: int | None = setting(None, "longest prompt plus output, in tokens (default: the model's own)", low=1)
    quantization: Literal["none", "lossless", "fp8", "fp8-blocks", "int8", "int4", "int4-g64", "int4-g128"] = setting(
        "none",
        "quantise the weights while loading: fp8 for GPUs; int4 shares a scale among 32 weights (or 64, or 128); "
        "lossless keeps bfloat16 weights as they are, in 12 bits",
    )
    one_row_copy: Literal["auto", "on", "off"] = setting(
        "auto",
        "on a GPU, keep bfloat16 weights a second time, in 12 bits, for steps of one row, which are 1.2 times as fast "
        "with the same numbers (auto: where it takes no more than an eighth of what the KV cache could use)",
    )
    weights_seed: int = setting(0, "seed of dummy weights", low=0)


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """The paged KV cache."""

    block_tokens: int = setting(16, "tokens per KV block", aliases=("block-size",), low=1, high=1024)
    memory_bytes: int | None = setting(
        None, "bytes of the KV cache, e.g. 4GiB (default: measured)", aliases=("kv-cache-memory-bytes",), is_bytes=True
    )
    kv_dtype: Literal["auto", "int8", "fp8"] = setting(
        "auto",
        "type of keys and values in the cache; int8 (CPU) and fp8 (GPU) halve their memory",
        aliases=("kv-cache-dtype",),
    )
    prefix_caching: bool = setting(True, "reuse the KV blocks of equal prefixes", aliases=("enable-prefix-caching",))


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Who runs in the next step."""

    max_running: int | None = setting(None, "most requests running at once", aliases=("max-num-seqs",), low=1)
    step_tokens: int | None = setting(
        None,
        "most tokens of one step, prefill and decode together; fewer where they read long contexts",
        aliases=("max-num-batched-tokens",),
        low=1,
    )
    max_waiting: int = setting(1024, "most requests waiting; one more is refused with 429", low=0)
    policy: Literal["fcfs", "priority"] = setting("fcfs", "order of admission", aliases=("scheduling-policy",))


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """One device."""

    device: Literal["auto", "cpu", "cuda", "fake"] = setting(
        "auto",
        "where the model runs; 'fake' computes nothing and answers from a cost model, to load-test the host side",
    )
    threads: int | None = setting(None, "CPU threads (default: the cores this process may use)", low=1)
    instruction_set: Literal["auto", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "portable"] = setting(
        "auto", "of the CPU kernels, for a lower one than the machine's best"
    )
    memory_fraction: float | None = setting(
        None,
        "share of the free memory that the KV cache may take (default: 0.6, on a GPU 0.92)",
        aliases=("gpu-memory-utilization",),
        low=0,
        high=1,
    )
    graphs: bool = setting(True, "on a GPU, record steps as CUDA graphs at start and replay them")
    exact: bool = setting(
        False, "on a GPU, the same tokens whatever shares the batch, at some cost of speed (CPUs always keep to it)"
    )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The loop and the process it lives in."""

    run_ahead: bool | None = setting(None, "issue a step before the last one's result is applied (default: by device)")
    step_timeout_s: float = setting(120.0, "a step longer than this is a hang: the engine is restarted", low=0.1)
    max_restarts: int = setting(5, "restarts within ten minutes before the engine is given up", low=0)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The HTTP server."""

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on (0: any free one)", low=0, high=65535)
    served_model_name: tuple[str, ...] = setting((), "name of the model in the API, and aliases", metavar="NAME")
    api_key: str | None = setting(None, "clients must send this as 'Authorization: Bearer KEY'")
    api_key_file: str | None = setting(None, "file of API keys and their limits; see `tradewind keys`", metavar="FILE")
    allowed_origins: tuple[str, ...] = setting((), "CORS: origins that browsers may call from", metavar="ORIGIN")
    max_body_bytes: int = setting(8 * 2**20, "largest request body, e.g. 8MiB", is_bytes=True, low=1)
    max_logprobs: int = setting(20, "most logprobs per token that a request may ask for", low=0)
    default_timeout_s: float | None = setting(None, "deadline of requests that set none", low=0)
    drain_timeout_s: float = setting(60.0, "after SIGTERM, how long running streams may take to finish", low=0)
    otlp_traces_endpoint: str | None = setting(
        None, "URL of an OpenTelemetry collector (OTLP over HTTP) that gets a span for each request", metavar="URL"
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "least level of log lines")
    log_json: bool = setting(False, "log lines as JSON objects")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All of it."""

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    runner: RunnerConfig = field(default_factory=RunnerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)


@dataclass(frozen=True)
class Setting:
    """A leaf of the tree, as the command line and `LLM(...)` see it. Names are unique over the whole tree."""

    part: str
    name: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def option_names(self) -> tuple[str, ...]:
        """`("max-running", "max-num-seqs")`: without the leading dashes, the main one first."""
        return (self.name.replace("_", "-"), *self.metadata["aliases"])


def settings() -> Iterator[Setting]:
    """Every leaf of the tree, in order."""
    for part in dataclasses.fields(Config):
        part_class = typing.cast(type, part.type)
        hints = typing.get_type_hints(part_class)
        for leaf in dataclasses.fields(part_class):
            yield Setting(part.name, leaf.name, hints[leaf.name], leaf.default, leaf.metadata)


def from_flat(values: Mapping[str, Any]) -> Config:
    """Build the tree from leaf names, e.g. `{"max_model_len": 4096}`; aliases with underscores are accepted.

    Strings are converted to the leaf's type. Raises ConfigError naming the nearest setting for an unknown name, and the
    allowed values for a wrong one.
    """
    by_name = {option.replace("-", "_"): leaf for leaf in settings() for option in leaf.option_names}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in by_name:
            raise ConfigError(f"unknown setting {name!r}{suggestion(name, by_name)}", field=name)
        leaf = by_name[name]
        parts.setdefault(leaf.part, {})[leaf.name] = convert(leaf, value)
    tree = {part.name: typing.cast(type, part.type)(**parts.get(part.name, {})) for part in dataclasses.fields(Config)}
    return Config(**tree)


def suggestion(name: str, known: typing.Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def to_tree(config: Config) -> dict[str, Any]:
    """The tree as plain dicts, for JSON and for another process."""
    return dataclasses.asdict(config)


def from_tree(tree: Mapping[str, Any]) -> Config:
    """The inverse of `to_tree`."""
    return from_flat({name: value for part in tree.values() for name, value in part.items()})


def convert(leaf: Setting, value: Any) -> Any:
    """`value` as the leaf's type, or ConfigError naming the setting and what would be right."""
    option = "--" + leaf.option_names[0]
    allowed = _without_none(leaf.type)
    if value is None:
        if allowed is leaf.type:
            raise ConfigError(f"{option} needs a value", field=leaf.name)
        return None
    if leaf.metadata["is_bytes"] and isinstance(value, str):
        try:
            value = parse_bytes(value)
        except ValueError as error:
            raise ConfigError(f"{option}: {error}", field=leaf.name) from None
    converted = _convert_plain(option, leaf, allowed, value)
    low, high = leaf.metadata["low"], leaf.metadata["high"]
    is_number = isinstance(converted, int | float) and not isinstance(converted, bool)
    if is_number and ((low is not None and converted < low) or (high is not None and converted > high)):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{option} must be {limits}, not {converted}", field=leaf.name)
    return converted


def _convert_plain(option: str, leaf: Setting, allowed: Any, value: Any) -> Any:
    if typing.get_origin(allowed) is Literal:
        choices = typing.get_args(allowed)
        if value not in choices:
            near = suggestion(str(value), choices)
            raise ConfigError(f"{option} must be one of {', '.join(choices)}, not {value!r}{near}", field=leaf.name)
        return value
    if typing.get_origin(allowed) is tuple:
        return (value,) if isinstance(value, str) else tuple(str(item) for item in value)
    if allowed is bool:
        return _convert_bool(option, leaf, value)
    if allowed in (int, float):
        return _convert_number(option, leaf, allowed, value)
    if not isinstance(value, str):
        raise ConfigError(f"{option} must be text, not {value!r}", field=leaf.name)
    return value


def _convert_bool(option: str, leaf: Setting, value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False, "on": True, "off": False}
    word = str(value).lower()
    if word not in known:
        raise ConfigError(f"{option} must be true or false, not {value!r}", field=leaf.name)
    return known[word]


def _convert_number(option: str, leaf: Setting, kind: type, value: Any) -> Any:
    wanted = "a whole number" if kind is int else "a number"
    try:
        number = kind(value)
        exact = not isinstance(value, bool) and math.isfinite(number) and (kind is float or float(value) == number)
    except (TypeError, ValueError, OverflowError):
        exact = False
    if not exact:
        raise ConfigError(f"{option} must be {wanted}, not {value!r}", field=leaf.name)
    return number


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        rest = [arm for arm in typing.get_args(kind) if arm is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind
