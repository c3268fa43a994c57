"""Who calls: API keys, compared in constant time."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from tradewind.base.errors import Unauthorized

ONLY_KEY = "api-key"
"""The name of the caller whose key is given as `--api-key`; no key of a file may have it."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one caller may ask for; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and answers together
    concurrency: int | None = None  # requests at once


UNBOUNDED = Rates()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a key belongs to; several keys may be one caller's. Without a name: anybody, on a server without keys."""

    name: str = ""
    rates: Rates = UNBOUNDED

    def salt(self, asked: str | None) -> str:
        """The salt of a request's cached prefixes, from the salt that the request itself asks for.

        No two callers share one, whatever they ask for: a name has no line break in it.
        """
        return f"{self.name}\n{asked or ''}" if self.name else asked or ""


@dataclass(frozen=True, slots=True)
class HashedKey:
    """A key, as it is kept. `digest`: SHA-256 of its whole text."""

    digest: bytes
    caller: Caller


class KeySource(Protocol):
    """Where keys are found."""

    def find(self, key: bytes, /) -> HashedKey | None:
        """The one key that `key` may be, by what is not secret in it; None if there is none."""
        ...


class SingleKey:
    """The key of `--api-key`."""

    def __init__(self, key: str) -> None:
        self._key = HashedKey(digest_of(key.encode()), Caller(ONLY_KEY))

    def find(self, _key: bytes, /) -> HashedKey:
        """See KeySource."""
        return self._key


class ApiKeys:
    """The keys that open this server; without a source of keys, it is open to all."""

    def __init__(self, sources: Iterable[KeySource] = ()) -> None:
        self._sources = tuple(sources)

    def identify(self, authorization: bytes | None) -> Caller:
        """The caller behind an Authorization header. Raises Unauthorized, saying nothing about near misses."""
        if not self._sources:
            return Caller()
        if authorization is None:
            raise Unauthorized("this server needs an API key: send 'Authorization: Bearer KEY'")
        scheme, _, key = authorization.partition(b" ")
        key = key.strip()
        presented = digest_of(key)
        found = [kept for source in self._sources if (kept := source.find(key)) is not None]
        matches = [kept.caller for kept in found if hmac.compare_digest(kept.digest, presented)]
        if scheme.lower() != b"bearer" or not matches:
            raise Unauthorized("wrong API key")
        return matches[0]


def digest_of(key: bytes) -> bytes:
    """A key's SHA-256.

    A slow hash (scrypt, argon2) is for passwords, which can be guessed. The keys made here are 32 random bytes: nobody
    can try them all, however fast the hash, and a request must not pay for one.
    """
    return hashlib.sha256(key).digest()
