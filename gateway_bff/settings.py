"""The gateway's own settings, read and validated once, at the edge."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Self

import orjson

from consulmesh import ConfigError
from consulmesh.admission import QueueTerms
from consulmesh.config import Environment, duration, queue_terms
from gateway_bff.quotas import DEFAULT_LIMITS, MEMORY, REQUESTS, Limit

BUDGETS: Mapping[str, float] = MappingProxyType(
    {
        "airports": 1.0,
        "search": 2.0,
        "stream": 10.0,
        "round_trips": 2.0,
        "calendar": 2.0,
        "flight": 1.0,
        "live": 2.0,
        "quote": 2.0,
        "booking": 5.0,
        "bookings": 2.0,
        "operation": 3.0,
        "mesh": 5.0,
        "ready": 0.5,
    }
)
"""Seconds that a request may take, by the name of its route. `booking` changes bookings,
`bookings` reads them; `operation` is an operator's; `live` is until a live stream begins.
MESH_ROUTE_BUDGETS overrides any of them: `{"quote": 0.8}`."""

LONGEST_BUDGET = 300.0
DEFAULT_PORT = 8080
_STORES = ("redis://", "rediss://")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
_HSTS = re.compile(r"max-age=[0-9]{1,10}(; ?includeSubDomains)?(; ?preload)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be different from one gateway to the next."""

    budgets: Mapping[str, float] = field(default_factory=lambda: BUDGETS)
    body_limit: int = 64 * 1024  # bytes
    body_patience: timedelta = timedelta(seconds=10)  # for a request body to arrive
    header_patience: timedelta = timedelta(seconds=10)  # for a request's headers to arrive
    keep_alive: timedelta = timedelta(seconds=30)  # between requests of a connection
    watch_after: timedelta = timedelta(milliseconds=50)  # when to start looking for a disconnect
    heartbeat: timedelta = timedelta(seconds=15)  # of silence in an event stream
    stalled: timedelta = timedelta(seconds=30)  # how long the reader of a stream may stop reading
    compose: timedelta = timedelta(milliseconds=500)  # for what an answer can do without
    search_shards: int = 1  # by which search is divided
    limits: Mapping[str, Limit] = field(default_factory=lambda: _limits("{}"))
    quota_store: str = MEMORY  # or the URL of a Redis or Valkey, for several gateways together
    queue: QueueTerms | None = field(default_factory=QueueTerms)  # None: nothing is shed
    at_once: int = 100  # requests of one address, streams too; 0 for any number
    refusal_pause: timedelta = timedelta(milliseconds=250)  # before an address is told it is above
    connections: int = 1_000  # of one address, trusted proxies aside; 0 for any number
    trusted_proxies: str = ""  # whose X-Forwarded-For is believed: addresses or networks
    cors_origins: Sequence[str] = ()  # whose scripts may ask, `*` for all
    hsts: str = ""  # Strict-Transport-Security of every answer, not only of those over TLS
    shutdown_delay: timedelta = timedelta()  # for what balances in front of it to look elsewhere

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Settings by the environment (docs/operations.md); raises ConfigError."""
        text = environ.get("MESH_ROUTE_BUDGETS", "").strip()
        return cls(
            budgets={**BUDGETS, **_budgets(text)} if text else BUDGETS,
            search_shards=_shards(environ.get("SEARCH_SHARDS", "").strip() or "1"),
            limits=_limits(environ.get("MESH_RATE_LIMITS", "").strip() or "{}"),
            quota_store=_store(environ.get("MESH_RATE_LIMIT_STORE", "").strip() or MEMORY),
            queue=Environment(environ).read("MESH_QUEUE_TARGET", queue_terms, QueueTerms()),
            at_once=_count("MESH_REQUESTS_AT_ONCE", environ, 100),
            connections=_count("MESH_CONNECTIONS", environ, 1_000),
            trusted_proxies=environ.get("MESH_TRUSTED_PROXIES", "").strip(),
            cors_origins=_origins(environ.get("MESH_CORS_ORIGINS", "")),
            hsts=_hsts(environ.get("MESH_HSTS", "").strip()),
            shutdown_delay=Environment(environ).read("MESH_SHUTDOWN_DELAY", duration, timedelta()),
        )


def _shards(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise ConfigError(f"SEARCH_SHARDS: {text!r} is not a number of shards")
    return int(text)


def _limits(text: str) -> dict[str, Limit]:
    """The limits as they stand, with what the text says otherwise; none for `off`."""
    if text == "off":
        return {}
    given = _object("MESH_RATE_LIMITS", text)
    if unknown := given.keys() - {REQUESTS, *BUDGETS}:
        known = ", ".join([REQUESTS, *BUDGETS])
        raise ConfigError(f"MESH_RATE_LIMITS: {sorted(unknown)} are none of {known}")
    limits: dict[str, Limit] = {}
    for name, limit in {**DEFAULT_LIMITS, **given}.items():
        if limit is None:
            continue
        try:
            limits[name] = Limit.parse(limit if isinstance(limit, str) else repr(limit))
        except ValueError as error:
            raise ConfigError(f"MESH_RATE_LIMITS: {name}: {error}") from None
    return limits


def _store(text: str) -> str:
    if text != MEMORY and not text.startswith(_STORES):
        raise ConfigError(f"MESH_RATE_LIMIT_STORE: not {MEMORY} or a URL of {', '.join(_STORES)}")
    return text


def _count(variable: str, environ: Mapping[str, str], default: int) -> int:
    text = environ.get(variable, "").strip() or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{variable}: {text!r} is not a number")
    return int(text)


def _origins(text: str) -> Sequence[str]:
    """As browsers write them: scheme, host and port, nothing after that."""
    origins = tuple(filter(None, (part.strip() for part in text.split(","))))
    if origins == ("*",):
        return origins
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigError(
                f"MESH_CORS_ORIGINS: {origin!r} is not like 'https://app.example.org', or '*' alone"
            )
    return origins


def _hsts(text: str) -> str:
    if text and not _HSTS.fullmatch(text):
        raise ConfigError(f"MESH_HSTS: {text!r} is not like 'max-age=31536000; includeSubDomains'")
    return text


def _budgets(text: str) -> dict[str, float]:
    given = _object("MESH_ROUTE_BUDGETS", text)
    if unknown := given.keys() - BUDGETS.keys():
        known = ", ".join(BUDGETS)
        raise ConfigError(f"MESH_ROUTE_BUDGETS: {sorted(unknown)} are none of {known}")
    return {name: _seconds(name, value) for name, value in given.items()}


def _object(variable: str, text: str) -> dict[str, Any]:
    try:
        given = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{variable}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{variable}: not an object, by names")
    return given


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"MESH_ROUTE_BUDGETS: {name} is not a number of seconds")
    if not 0 < value <= LONGEST_BUDGET:
        raise ConfigError(f"MESH_ROUTE_BUDGETS: {name} is not within 0 and {LONGEST_BUDGET:g} s")
    return float(value)
