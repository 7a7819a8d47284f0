"""What the mapping reads out of a compiled discovery chain (Consul's `/v1/discovery-chain`)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

Json = Mapping[str, Any]
Warn = Callable[[str], None]

_UNITS: Final = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "ns": 1e-9,
}
_TERM: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SEPARATORS: Final = re.compile(r"[,\s]+")


def duration(value: object) -> timedelta:
    """Return a span as Consul writes it: a Go duration ("1m30s") or an integer of nanoseconds.

    None and "" are zero. Raises ValueError on anything else.
    """
    if value is None or value in {"", "0"}:
        return timedelta()
    if isinstance(value, int):
        return timedelta(microseconds=value / 1000)
    terms = _TERM.findall(str(value))
    if "".join(number + unit for number, unit in terms) != value:
        raise ValueError(f"{value!r} is not a duration")
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in terms))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimeout:
    """How long calls may take that match: one method, or all of a path prefix."""

    prefix: str
    exact: bool
    timeout: timedelta

    def matches(self, method: str) -> bool:
        """Say whether it holds for a method ("/package.Service/Method")."""
        return method == self.prefix if self.exact else method.startswith(self.prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """What a service's Meta (service-defaults) says of its methods, full paths.

    Meta keys: `grpc-service` (full name), `retryable-methods` ("Get, List") and
    `request-timeouts` ("Get=2s, List=500ms").
    """

    retryable: tuple[str, ...] = ()
    timeouts: tuple[RequestTimeout, ...] = ()

    @classmethod
    def of(cls, meta: Json, warn: Warn) -> "MethodPolicy":
        """Read a chain's ServiceMeta; what cannot be read is warned of and left out."""
        service = meta.get("grpc-service", "")
        methods = _words(meta.get("retryable-methods"))
        timeouts = _words(meta.get("request-timeouts"))
        if not service:
            if methods or timeouts:
                warn("Meta names methods but no grpc-service: no retries, no timeouts from it")
            return cls()
        return cls(
            retryable=tuple(f"/{service}/{method}" for method in methods),
            timeouts=tuple(_timeouts(service, timeouts, warn)),
        )


def _words(value: str | None) -> list[str]:
    return list(dict.fromkeys(word for word in _SEPARATORS.split(value or "") if word))


def _timeouts(service: str, entries: list[str], warn: Warn) -> list[RequestTimeout]:
    timeouts = []
    for entry in entries:
        method, _, span = entry.partition("=")
        try:
            timeout = duration(span)
        except ValueError as error:
            warn(f"request-timeouts of Meta: {error}")
            continue
        if timeout:
            path = f"/{service}/{method}"
            timeouts.append(RequestTimeout(prefix=path, exact=True, timeout=timeout))
    return timeouts
