"""How much a client may ask for: rate limits by address and by user (RFC 6585 §4).

Which algorithm, and why, by what is limited:

- `requests`, everything from one address: GCRA, a leaky bucket used as a meter. A page that asks
  for twenty things at once is no abuse, so there is a burst; after it there is the rate.
- quotes and bookings: a sliding window, so that no moment is better than another to hoard seats.
  (A fixed window would let twice the number through around its end.)

Where a store is shared by several gateways and is away, nobody is refused: limits protect from
abuse, and are not worth an outage.
"""

import asyncio
import ipaddress
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, Self

import structlog
from starlette.types import Scope
from throttled import RateLimiterType
from throttled.asyncio import MemoryStore, RateLimitResult, RedisStore, Throttled, rate_limiter
from throttled.exceptions import StoreUnavailableError

from consulmesh.users import User
from gateway_bff.problems import Problem
from gateway_bff.telemetry import QuotaMetrics

REQUESTS: Final = "requests"
HEADERS: Final = "flightmesh.quota"
"""In the scope: the RateLimit headers of the answer."""
MEMORY: Final = "memory"

_UNITS: Final[Mapping[str, int]] = MappingProxyType(
    {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
)
_TEXT: Final = re.compile(
    r"([1-9][0-9]{0,8})/(second|minute|hour|day)(?: burst ([1-9][0-9]{0,8}))?"
)
_CLIENTS: Final = 100_000  # of which is known what they asked for; the least recent is forgotten
_PATIENCE: Final = 0.1  # seconds, for a shared store
_PAUSE: Final = 1.0  # seconds, before one that was away is asked again
_IPV6_NETWORK: Final = 64  # bits: what one subscriber gets

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limit:
    """So many in so many seconds; `burst` at once."""

    number: int
    seconds: int
    burst: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The limit of `1200/minute burst 100`; raises ValueError."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not like '30/minute' or '1200/minute burst 100'")
        number, unit, burst = found.groups()
        return cls(int(number), _UNITS[unit], int(burst or number))


DEFAULT_LIMITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        REQUESTS: "1200/minute burst 200",
        "quote": "30/minute",
        "booking": "20/hour",
    }
)
"""By what is limited: `requests` by address; by the name of a route in the table of budgets what
changes something there, by user, or by address where nobody has to be known."""


class Quotas:
    """What clients have asked for, in the memory of this process or in a store that is shared.

    State: `_away_until`, on the loop's clock: the shared store is not asked before.
    """

    def __init__(
        self, limits: Mapping[str, Limit], metrics: QuotaMetrics, store: str = MEMORY
    ) -> None:
        self._metrics = metrics
        self._away_until = -math.inf
        self._shared = None if store == MEMORY else RedisStore(server=store)
        kept = self._shared or MemoryStore(options={"MAX_SIZE": _CLIENTS})
        self._throttled = {
            name: Throttled(
                using=(
                    RateLimiterType.GCRA if name == REQUESTS else RateLimiterType.SLIDING_WINDOW
                ).value,
                quota=rate_limiter.per_duration(
                    timedelta(seconds=limit.seconds), limit.number, limit.burst
                ),
                store=kept,
            )
            for name, limit in limits.items()
        }
        self._policies = {
            name: f'"{name}";q={limit.number};w={limit.seconds}'.encode("ascii")
            for name, limit in limits.items()
        }

    async def aclose(self) -> None:
        """Let go of the shared store."""
        if self._shared is not None:
            client: Any = self._shared._backend.get_client()  # noqa: SLF001 - it has no other way
            await client.aclose(close_connection_pool=True)

    async def charge(self, name: str, client: str, scope: Scope) -> None:
        """Count one for the client; raises RATE_LIMITED. What has no limit is not counted.

        The RateLimit headers of the answer are left in the scope, also where it is refused.
        """
        throttled = self._throttled.get(name)
        if throttled is None:
            return
        result = await self._limited(throttled, f"{name}:{client}")
        if result is None:
            return
        state = result.state
        reset = math.ceil(state.retry_after if result.limited else state.reset_after)
        left = b'"%b";r=%d;t=%d' % (name.encode("ascii"), state.remaining, reset)
        scope[HEADERS] = (
            *scope.get(HEADERS, ()),
            (b"ratelimit-policy", self._policies[name]),
            (b"ratelimit", left),
        )
        if result.limited:
            raise self.refusal(name, max(1, reset))

    def refusal(self, name: str, retry_after: int, detail: str = "") -> Problem:
        """What to raise where a limit is reached; it counts as refused."""
        self._metrics.refused(name)
        return Problem(
            "RATE_LIMITED",
            detail,
            headers={"Retry-After": str(retry_after)},
            extensions={"violated_policies": [name]},
        )

    async def _limited(self, throttled: Throttled, key: str) -> RateLimitResult | None:
        if self._shared is None:
            return await throttled.limit(key)
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            self._metrics.store_failed()
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                return await throttled.limit(key)
        except (StoreUnavailableError, TimeoutError) as error:
            self._away_until = loop.time() + _PAUSE
            self._metrics.store_failed()
            _log.warning("quota_store_failed", error=repr(error.__cause__ or error))
            return None


def of_address(scope: Scope) -> str:
    """The client as the address it comes from."""
    peer: Sequence[object] | None = scope.get("client")
    return of_host(str(peer[0])) if peer else ""


def of_user(user: User) -> str:
    """The client as the user it acts for; no name of a person leaves the process."""
    return blake2b(f"{user.issuer} {user.subject}".encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=4096)
def of_host(host: str) -> str:
    """The client at an address, as what one subscriber has: an IPv4 address, or a /64 of IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK), strict=False))
    return host
