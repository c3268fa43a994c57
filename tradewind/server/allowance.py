"""What each caller may still ask for: requests and tokens a minute, and requests at once.

A rate is a bucket that fills all the time and holds a minute's worth at most. So a refusal is decided at once and knows
when to come again.

Tokens are reserved when a prompt is known: the prompt, and `max_tokens` of each answer if the request says so. What is
said beyond that is charged as it is said, and what is reserved and not used is given back at the end. A balance may so
fall below zero, and nothing more is let in before it is above it: over time the rate holds. A request that is larger
than a whole minute's worth is let in when the bucket is full.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tradewind.base.errors import Overloaded
from tradewind.server.keys import Caller, Rates

Limit = Literal["requests", "tokens", "concurrency"]
LIMITS: tuple[Limit, ...] = ("requests", "tokens", "concurrency")
Headers = list[tuple[bytes, bytes]]

RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{name}" for name in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)

MINUTE_S = 60.0
CONCURRENCY_RETRY_S = 1.0  # nobody knows when a request of the caller's will end
MAX_LABELS = 256
OTHERS = "others"
NOBODY = "anonymous"


class RateLimited(Overloaded):
    """The caller's own limit is reached. `kind` is the limit, as in OpenAI's errors."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, limit: Limit, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.kind = "requests" if limit == "concurrency" else limit


class Bucket:
    """A rate: `per_minute` units, of which a minute's worth is there at most."""

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def resize(self, per_minute: int, now_s: float) -> None:
        """Another rate from now on; what was used stays used."""
        self._fill(now_s)
        self._level += per_minute - self.per_minute
        self.per_minute = per_minute

    def wait_s(self, units: float, now_s: float) -> float:
        """How long until `units` are there, or the bucket is full; 0: now."""
        self._fill(now_s)
        missing = min(units, self.per_minute) - self._level
        return max(0.0, missing * MINUTE_S / self.per_minute)

    def take(self, units: float) -> None:
        """Use `units`, or give them back where they are negative."""
        self._level = min(self._level - units, float(self.per_minute))

    def left(self, now_s: float) -> int:
        """What is there, in whole units."""
        self._fill(now_s)
        return max(0, math.floor(self._level))

    def _fill(self, now_s: float) -> None:
        self._level = min(self.per_minute, self._level + (now_s - self._at_s) * self.per_minute / MINUTE_S)
        self._at_s = now_s


@dataclass(slots=True, eq=False)
class _Charge:
    """Tokens of one generation: `used` is what it has used so far, `charged` what was paid for."""

    used: Callable[[], int]
    charged: int

    def settle(self, is_over: bool) -> int:
        """What is to be paid now; negative: given back."""
        used = self.used()
        due = used - self.charged if is_over else max(0, used - self.charged)
        self.charged += due
        return due


@dataclass(slots=True)
class Counts:
    """What a caller has had, for the metrics."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: "Counter[Limit]" = field(default_factory=Counter)


class Allowance:
    """One caller's."""

    def __init__(self, rates: Rates, now_s: float) -> None:
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._rates = Rates()
        self._charges: set[_Charge] = set()
        self.open = 0
        self.counts = Counts()
        self.change(rates, now_s)

    def change(self, rates: Rates, now_s: float) -> None:
        """Other limits from now on."""
        if rates != self._rates:
            self._rates = rates
            self._requests = _resized(self._requests, rates.requests_per_minute, now_s)
            self._tokens = _resized(self._tokens, rates.tokens_per_minute, now_s)

    def enter(self, now_s: float) -> None:
        """A request comes. Raises RateLimited; else `leave` must follow."""
        most = self._rates.concurrency
        if most is not None and self.open >= most:
            raise self._refuse("concurrency", f"{self.open} requests are open of at most {most}", CONCURRENCY_RETRY_S)
        if self._tokens is not None:
            self._settle()
            self._require("tokens", self._tokens, 1, now_s)
        if self._requests is not None:
            self._require("requests", self._requests, 1, now_s)
            self._requests.take(1)
        self.open += 1
        self.counts.requests += 1

    def reserve(self, tokens: int, used: Callable[[], int], now_s: float) -> _Charge | None:
        """A generation begins. Raises RateLimited; else `close` must follow with what is returned."""
        if self._tokens is None:
            return None
        self._settle()
        self._require("tokens", self._tokens, tokens, now_s)
        self._tokens.take(tokens)
        charge = _Charge(used, tokens)
        self._charges.add(charge)
        return charge

    def close(self, charges: list[_Charge]) -> None:
        """Generations have ended: what they did not use is given back."""
        for charge in charges:
            self._charges.discard(charge)
            due = charge.settle(is_over=True)
            if self._tokens is not None:
                self._tokens.take(due)

    def leave(self) -> None:
        """A request has ended."""
        self.open -= 1

    def headers(self, now_s: float) -> Headers:
        """OpenAI's `x-ratelimit-*`, for the rates that have a limit."""
        buckets = ((b"requests", self._requests), (b"tokens", self._tokens))
        return [pair for name, bucket in buckets if bucket is not None for pair in _headers(name, bucket, now_s)]

    def _settle(self) -> None:
        assert self._tokens is not None
        for charge in self._charges:
            self._tokens.take(charge.settle(is_over=False))

    def _require(self, limit: Limit, bucket: Bucket, units: int, now_s: float) -> None:
        wait_s = bucket.wait_s(units, now_s)
        if wait_s > 0:
            left = bucket.left(now_s)
            what = f"{bucket.per_minute} {limit} per minute, {left} are left now, {units} are needed"
            raise self._refuse(limit, what, wait_s)

    def _refuse(self, limit: Limit, what: str, retry_after_s: float) -> RateLimited:
        self.counts.refused[limit] += 1
        message = f"this API key's limit is reached: {what}; try again in {_duration(retry_after_s)}"
        return RateLimited(message, limit=limit, retry_after_s=retry_after_s)


def _resized(bucket: Bucket | None, per_minute: int | None, now_s: float) -> Bucket | None:
    if per_minute is None:
        return None
    if bucket is None:
        return Bucket(per_minute, now_s)
    bucket.resize(per_minute, now_s)
    return bucket


def _headers(name: bytes, bucket: Bucket, now_s: float) -> Headers:
    values = {
        b"limit": str(bucket.per_minute),
        b"remaining": str(bucket.left(now_s)),
        b"reset": _duration(bucket.wait_s(bucket.per_minute, now_s)),
    }
    return [(b"x-ratelimit-%b-%b" % (what, name), value.encode()) for what, value in values.items()]


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:g}s"


class Ticket:
    """One request's part of its caller's allowance, from its arrival to the end of its answer."""

    def __init__(self, allowance: Allowance, now_s: Callable[[], float]) -> None:
        self._allowance = allowance
        self._now_s = now_s
        self._charges: list[_Charge] = []
        self._is_open = False

    def enter(self) -> None:
        """The request comes in. Raises RateLimited."""
        self._allowance.enter(self._now_s())
        self._is_open = True

    def reserve(self, tokens: int, used: Callable[[], int]) -> None:
        """Tokens for a generation; `used` tells how many it has used so far. Raises RateLimited."""
        charge = self._allowance.reserve(tokens, used, self._now_s())
        if charge is not None:
            self._charges.append(charge)

    def note(self, prompt_tokens: int, completion_tokens: int) -> None:
        """What the request came to, for the metrics."""
        self._allowance.counts.prompt_tokens += prompt_tokens
        self._allowance.counts.completion_tokens += completion_tokens

    def headers(self) -> Headers:
        """See Allowance."""
        return self._allowance.headers(self._now_s())

    def close(self) -> None:
        """The answer is out, or will never be. Harmless for a request that did not come in."""
        if self._is_open:
            self._is_open = False
            self._allowance.close(self._charges)
            self._allowance.leave()


class Allowances:
    """Everyone's, by name; what somebody has used outlives a change of the limits."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._by_name: dict[str, Allowance] = {}

    def ticket(self, caller: Caller) -> Ticket:
        """For a request of `caller`, by the limits that the caller has now."""
        now_s = self._monotonic()
        allowance = self._by_name.get(caller.name)
        if allowance is None:
            allowance = self._by_name[caller.name] = Allowance(caller.rates, now_s)
        allowance.change(caller.rates, now_s)
        return Ticket(allowance, self._monotonic)

    def by_label(self) -> dict[str, list[Allowance]]:
        """Everyone who has come, by a label for the metrics: the first MAX_LABELS by name, the others together."""
        labels: dict[str, list[Allowance]] = {}
        for name, allowance in self._by_name.items():
            label = (name or NOBODY) if len(labels) < MAX_LABELS else OTHERS
            labels.setdefault(label, []).append(allowance)
        return labels
