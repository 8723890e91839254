"""How often one caller may ask: a bucket of tokens for each, in the memory of this process.

Several API processes each allow the whole rate. Nothing is written: a limit that had to ask the database would be a load of its own.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from certify.errors import AssayError

_CALLERS = 10_000
_MINUTE = 60.0


class RateLimited(AssayError):
    """Too many requests in a minute."""

    code = "rate-limited"


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What the bucket said. `wait` is 0 when the request may pass, else the seconds until the next one may; `full` until all may."""

    limit: int
    remaining: int
    full: int
    wait: int

    @property
    def headers(self) -> dict[str, str]:
        """The RateLimit fields of draft-ietf-httpapi-ratelimit-headers-03, and Retry-After (RFC 9110) on a refusal."""
        told = {"RateLimit-Limit": self.limit, "RateLimit-Remaining": self.remaining, "RateLimit-Reset": self.full}
        return {name: str(value) for name, value in (told | ({"Retry-After": self.wait} if self.wait else {})).items()}


class Limiter:
    """At most `per_minute` requests at once and in every minute on average, for each caller.

    The 10,000 callers seen last are remembered; one that is forgotten starts with a full bucket again. Not for several threads: asked
    in the event loop only.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic, callers: int = _CALLERS) -> None:
        self.per_minute, self._clock, self._callers = per_minute, clock, callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when they were counted

    def take(self, caller: str) -> Allowance:
        """A token, if there is one; a request that is refused costs none."""
        now, rate = self._clock(), self.per_minute / _MINUTE
        tokens, counted = self._buckets.pop(caller, (float(self.per_minute), now))
        tokens = min(float(self.per_minute), tokens + (now - counted) * rate)
        allowed = tokens >= 1.0
        left = tokens - 1.0 if allowed else tokens
        self._buckets[caller] = (left, now)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        full, wait = math.ceil((self.per_minute - left) / rate), 0 if allowed else max(1, math.ceil((1.0 - left) / rate))
        return Allowance(limit=self.per_minute, remaining=math.floor(left), full=full, wait=wait)


def network(host: str | None) -> str:
    """Whom an address stands for: itself, or in version 6 its /64, of which one caller has all."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return host or ""
    if address.version == 4 or address.ipv4_mapped:
        return str(getattr(address, "ipv4_mapped", None) or address)
    return str(ipaddress.ip_network((address, 64), strict=False))
