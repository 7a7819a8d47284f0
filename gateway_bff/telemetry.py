"""Metrics of the public API, named after the OpenTelemetry semantic conventions for HTTP."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, Histogram

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
