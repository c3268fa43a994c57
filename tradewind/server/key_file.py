"""The file of `--api-key-file`: a line for each key, with its hash and what its caller may ask for.

    # name   hash                                   limits
    alice    sha256:4f1c9b20aa17e3d5:7d865e959b...  requests_per_minute=600 tokens_per_minute=100000 concurrency=16

A key reads `tw-SALT-SECRET`: a salt of 8 random bytes in hexadecimal, which finds its line, and 32 random bytes in
base64. The hash is the SHA-256 of the whole key, so the salt goes into it. Two lines with the same name are two keys of
one caller, as when one replaces the other.
"""

import dataclasses
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tradewind.base.errors import ConfigError
from tradewind.base.log import fields
from tradewind.config import ServerConfig
from tradewind.server.keys import (
    ONLY_KEY,
    UNBOUNDED,
    ApiKeys,
    Caller,
    HashedKey,
    KeySource,
    Rates,
    SingleKey,
    digest_of,
)

log = logging.getLogger(__name__)

MAX_KEYS = 10_000
LOOK_EVERY_S = 1.0
"""How long a change of the file may go unseen, at most, while requests come."""

_PREFIX = "tw"
_SALT_BYTES = 8
_SECRET_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{16}):([0-9a-f]{64})")
_MOST = 10**12
_LIMITS = tuple(each.name for each in dataclasses.fields(Rates))

Keys = dict[bytes, HashedKey]  # by salt
Version = tuple[int, int, int]


def open_keys(config: ServerConfig) -> ApiKeys:
    """The keys that the settings name. Raises ConfigError for a file that cannot be used."""
    sources: list[KeySource] = [SingleKey(config.api_key)] if config.api_key else []
    return ApiKeys([*sources, KeyFile(Path(config.api_key_file))] if config.api_key_file else sources)


@dataclass(frozen=True, slots=True)
class Line:
    """One key of a file."""

    salt: str
    digest: str
    caller: Caller

    def text(self) -> str:
        """As it stands in the file."""
        limits = {name: getattr(self.caller.rates, name) for name in _LIMITS}
        given = [f"{name}={value}" for name, value in limits.items() if value is not None]
        return " ".join([self.caller.name, f"sha256:{self.salt}:{self.digest}", *given])


def new_key(name: str, rates: Rates) -> tuple[str, Line]:
    """A new key, which nothing keeps, and its line. Raises ConfigError for a name that cannot be one."""
    _check_name(name)
    salt = secrets.token_hex(_SALT_BYTES)
    key = f"{_PREFIX}-{salt}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    return key, Line(salt, digest_of(key.encode()).hex(), Caller(name, rates))


def add_key(path: Path, name: str, rates: Rates) -> str:
    """Make a key and append its line to the file, which may be new. The key itself is kept nowhere.

    A name that is there already gets one more key, with the limits it has. Raises ConfigError.
    """
    there = {line.caller.name: line.caller for line in parse(read(path))} if path.exists() else {}
    if name in there and rates == UNBOUNDED:
        rates = there[name].rates
    elif name in there and rates != there[name].rates:
        raise ConfigError(f"{path} has other limits for {name}: change them there, for all keys of that name")
    key, line = new_key(name, rates)
    end_is_open = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(("\n" if end_is_open else "") + line.text() + "\n")
    return key


def read(path: Path) -> str:
    """The file's text. Raises ConfigError."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"the key file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the key file {path} is not UTF-8") from None


def parse(text: str, source: str = "the key file") -> list[Line]:
    """Every key of a file. Raises ConfigError naming the line that is wrong, and never showing what is in it."""
    callers: dict[str, Caller] = {}
    salts: set[str] = set()
    lines: list[Line] = []
    for number, words in _lines(text):
        try:
            line = _parse_line(words)
            if line.salt in salts:
                raise ConfigError("the same key is there already")
            if callers.setdefault(line.caller.name, line.caller) != line.caller:
                raise ConfigError(f"other keys of {line.caller.name} have other limits; a name has one set of them")
            if len(lines) == MAX_KEYS:
                raise ConfigError(f"there are more than {MAX_KEYS} keys")
        except ConfigError as error:
            raise ConfigError(f"{source}, line {number}: {error.message}") from None
        salts.add(line.salt)
        lines.append(line)
    return lines


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words


def _parse_line(words: list[str]) -> Line:
    name, *rest = words
    _check_name(name)
    if not rest or (found := _HASH.fullmatch(rest[0])) is None:
        raise ConfigError("the second word must be a hash, as `tradewind keys new` writes it: sha256:SALT:DIGEST")
    return Line(found[1], found[2], Caller(name, _parse_rates(rest[1:])))


def _parse_rates(words: list[str]) -> Rates:
    given: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in _LIMITS:
            raise ConfigError(f"a limit must be one of {', '.join(_LIMITS)}, not {name[:40]!r}")
        if name in given:
            raise ConfigError(f"{name} is there twice")
        if not (value.isascii() and value.isdigit() and 1 <= int(value[:20]) <= _MOST):
            raise ConfigError(f"{name} must be a whole number from 1 to {_MOST}, not {value[:40]!r}")
        given[name] = int(value)
    return Rates(**given)


def _check_name(name: str) -> None:
    if name == ONLY_KEY:
        raise ConfigError(f"the name {ONLY_KEY} is that of the key given as --api-key")
    if _NAME.fullmatch(name) is None:
        raise ConfigError("a name has letters, digits, dots, hyphens and underscores, 64 at most")


class KeyFile:
    """The keys of a file, which is looked at again while requests come. A KeySource.

    An idle server does not look. A file that has become unreadable or malformed is logged once, and the keys that were
    there stay.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError, naming the line that is wrong."""
        self._path = path
        self._monotonic = monotonic
        self._version = self._version_now()
        self._keys = self._load()
        self._looked_s = monotonic()

    def find(self, key: bytes) -> HashedKey | None:
        """See KeySource: by the salt."""
        now_s = self._monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            self._look()
        parts = key.split(b"-", 2)
        return self._keys.get(parts[1]) if len(parts) == 3 and parts[0] == _PREFIX.encode() else None

    def _look(self) -> None:
        version = self._version_now()
        if version == self._version:
            return
        self._version = version
        try:
            self._keys = self._load()
        except ConfigError as error:
            log.error("API keys not read again; the old ones stay: %s", error.message)
            return
        log.info("API keys read again", extra=fields(file=self._path, keys=len(self._keys)))

    def _version_now(self) -> Version | None:
        """What changes with every new content of the file; None without a file."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _load(self) -> Keys:
        lines = parse(read(self._path), str(self._path))
        return {line.salt.encode(): HashedKey(bytes.fromhex(line.digest), line.caller) for line in lines}
