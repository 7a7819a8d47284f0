"""Metrics of calls, named after the OpenTelemetry semantic conventions, and their HTTP endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Final

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Gauge,
    Histogram,
    generate_latest,
)

# OpenTelemetry's buckets, and three below them: calls here take less than a millisecond.
_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
UNKNOWN_METHOD: Final = "_OTHER"


class RpcMetrics:
    """The metrics of all calls that a process serves and makes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._served = Histogram(
            "rpc_server_call_duration_seconds",
            "Time to serve a call, by method and outcome.",
            ("rpc_method", "rpc_response_status_code"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._serving = Gauge(
            "rpc_server_active_calls",
            "Calls that are being served.",
            ("rpc_method",),
            registry=registry,
        )
        self._made = Histogram(
            "rpc_client_call_duration_seconds",
            "Time until a call of ours was over, by upstream, method and outcome.",
            ("server_address", "rpc_method", "rpc_response_status_code"),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._making = Gauge(
            "rpc_client_active_calls",
            "Calls of ours that are not over.",
            ("server_address", "rpc_method"),
            registry=registry,
        )

    def served(self, method: str) -> MethodMetrics:
        """The metrics of one method that we serve ("package.Service/Method")."""
        return MethodMetrics(
            lambda code: self._served.labels(method, code), self._serving.labels(method)
        )

    def made(self, upstream: str, method: str) -> MethodMetrics:
        """The metrics of one method that we call."""
        return MethodMetrics(
            lambda code: self._made.labels(upstream, method, code),
            self._making.labels(upstream, method),
        )


class MethodMetrics:
    """The metrics of one method. Label lookups are made once, not for each call."""

    __slots__ = ("_active", "_by_code", "_histogram")

    def __init__(self, histogram: Callable[[str], Histogram], active: Gauge) -> None:
        self._histogram = histogram
        self._active = active
        self._by_code: dict[str, Callable[[float], None]] = {}

    def started(self) -> None:
        """A call began."""
        self._active.inc()

    def ended(self, code: str, seconds: float) -> None:
        """A call that had begun is over."""
        self._active.dec()
        observe = self._by_code.get(code)
        if observe is None:
            observe = self._by_code[code] = self._histogram(code).observe
        observe(seconds)


@cache
def rpc_metrics(registry: CollectorRegistry = REGISTRY) -> RpcMetrics:
    """The metrics of calls in this registry, which can hold them only once."""
    return RpcMetrics(registry)


@asynccontextmanager
async def metrics_endpoint(
    host: str, port: int, registry: CollectorRegistry = REGISTRY
) -> AsyncIterator[int]:
    """Serves `GET /metrics` in Prometheus' text format for the block; gives the port it got."""

    async def scrape(_request: web.Request) -> web.Response:
        # in a thread: there may be thousands of series
        text = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
