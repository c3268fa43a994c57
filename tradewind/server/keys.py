"""Who calls: API keys, compared in constant time."""

import hashlib
import hmac
from dataclasses import dataclass

from tradewind.base.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a key belongs to. `cache_salt` keeps the cached prefixes of one caller from another."""

    name: str = "anonymous"
    cache_salt: str = ""


class ApiKeys:
    """The keys that open this server; with none of them, it is open to all."""

    def __init__(self, keys: dict[str, Caller]) -> None:
        self._callers = [(_digest(key.encode()), caller) for key, caller in keys.items()]

    def identify(self, authorization: bytes | None) -> Caller:
        """The caller behind an Authorization header. Raises Unauthorized, saying nothing about near misses."""
        if not self._callers:
            return Caller()
        if authorization is None:
            raise Unauthorized("this server needs an API key: send 'Authorization: Bearer KEY'")
        scheme, _, key = authorization.partition(b" ")
        presented = _digest(key.strip())
        matches = [caller for digest, caller in self._callers if hmac.compare_digest(digest, presented)]
        if scheme.lower() != b"bearer" or not matches:
            raise Unauthorized("wrong API key")
        return matches[0]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
