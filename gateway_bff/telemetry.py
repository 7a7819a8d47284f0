"""Metrics of the public API.

Those of requests are named after the OpenTelemetry semantic conventions for HTTP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from consulmesh.context import Criticality

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMetrics:
    """Duration and number of requests. A registry holds them once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "http_server_request_duration_seconds",
            "Time to serve a request, to its last byte; a stream, to its last event.",
            ("http_request_method", "http_route", "http_response_status_code"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.active = Gauge(
            "http_server_active_requests", "Requests that are being served.", registry=registry
        )
        self._observers: dict[tuple[str, str, int], Callable[[float], None]] = {}

    def served(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request is over. `route` is the route's template, or "" for none."""
        key = (method if method in _METHODS else "_OTHER", route, status)
        observe = self._observers.get(key)
        if observe is None:
            labels = (key[0], route, str(status))
            observe = self._observers[key] = self._duration.labels(*labels).observe
        observe(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMetrics:
    """The live streams of one source; `resets` by reason."""

    subscribers: Gauge
    sent: Counter
    conflated: Counter
    catch_ups: Counter
    resets: Callable[[str], Counter]


class LiveMetrics:
    """Metrics of live streams. A registry holds them once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        source = ("source",)
        self._subscribers = Gauge(
            "gateway_live_subscribers", "Live streams that are open.", source, registry=registry
        )
        self._sent = Counter(
            "gateway_live_events_sent", "Events sent on live streams.", source, registry=registry
        )
        self._conflated = Counter(
            "gateway_live_events_conflated",
            "Events that a newer one replaced before their client took them.",
            source,
            registry=registry,
        )
        self._catch_ups = Counter(
            "gateway_live_catch_ups",
            "Times that a source's history was read for clients that came back.",
            source,
            registry=registry,
        )
        self._resets = Counter(
            "gateway_live_resets",
            "Clients that had to start anew.",
            ("source", "reason"),
            registry=registry,
        )

    def of(self, source: str) -> SourceMetrics:
        """The metrics of one source."""
        return SourceMetrics(
            subscribers=self._subscribers.labels(source),
            sent=self._sent.labels(source),
            conflated=self._conflated.labels(source),
            catch_ups=self._catch_ups.labels(source),
            resets=partial(self._resets.labels, source),
        )


class QuotaMetrics:
    """What was refused because it was too much. A registry holds them once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "gateway_rate_limited",
            "Requests that were too many, by the limit that they were above.",
            ("policy",),
            registry=registry,
        )
        self._failures = Counter(
            "gateway_rate_limit_store_failures",
            "Requests that were admitted because the shared store of limits was away.",
            registry=registry,
        )

    def refused(self, policy: str) -> None:
        """A request was refused."""
        self._refused.labels(policy).inc()

    def store_failed(self) -> None:
        """A request was admitted, nobody knows whether it was too much."""
        self._failures.inc()


class LoadMetrics:
    """What was refused because there was too much to do. A registry holds them once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        refused = Counter(
            "gateway_shed",
            "Requests that were refused because the event loop was behind.",
            ("criticality",),
            registry=registry,
        )
        self._counters = {each: refused.labels(each.value) for each in Criticality}

    def refused(self, criticality: Criticality) -> None:
        """A request was refused."""
        self._counters[criticality].inc()


class CacheMetrics:
    """How often an answer could be used again. A registry holds them once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lookups = Counter(
            "gateway_search_cache_lookups",
            "Searches that were asked before, by what the cache had: a hit, or why not.",
            ("result",),
            registry=registry,
        )
        self.kept = Gauge(
            "gateway_search_cache_bytes", "Length of the answers that are kept.", registry=registry
        )

    def looked_up(self, result: str) -> None:
        """A question was looked up; the result is `hit` or a reason of RFC 9211."""
        self._lookups.labels(result).inc()
