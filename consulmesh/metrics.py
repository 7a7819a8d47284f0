"""Metrics of calls, named after the OpenTelemetry semantic conventions, and their HTTP endpoint."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import cache
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

# OpenTelemetry's buckets, and three below them: calls here take less than a millisecond.
_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_BOUNDS: Final = (*(str(bound) for bound in _BUCKETS), "+Inf")
UNKNOWN_METHOD: Final = "_OTHER"


class MethodMetrics:
    """The calls of one method, from one side.

    Counts by itself and is read when somebody asks: prometheus_client's own classes take a lock for
    each of their steps, which is much of what a call costs here. Only the event loop writes.
    """

    __slots__ = ("active", "labels", "outcomes")

    def __init__(self, *labels: str) -> None:
        self.labels = labels
        self.active = 0
        self.outcomes: dict[str, list[float]] = {}  # by code: a count per bucket, then the sum

    def started(self) -> None:
        """A call began."""
        self.active += 1

    def ended(self, code: str, seconds: float) -> None:
        """A call that had begun is over."""
        self.active -= 1
        counts = self.outcomes.get(code)
        if counts is None:
            counts = self.outcomes[code] = [0] * (len(_BUCKETS) + 2)
        counts[bisect_left(_BUCKETS, seconds)] += 1
        counts[-1] += seconds


class HedgeMetrics:
    """How many calls of one method were asked again, and how many a later attempt answered."""

    __slots__ = ("labels", "made", "won")

    def __init__(self, *labels: str) -> None:
        self.labels = labels
        self.made = 0
        self.won = 0


class RpcMetrics(Collector):
    """The metrics of all calls that a process serves and makes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._served: dict[tuple[str, ...], MethodMetrics] = {}
        self._made: dict[tuple[str, ...], MethodMetrics] = {}
        self._hedged: dict[tuple[str, ...], HedgeMetrics] = {}
        registry.register(self)

    def served(self, method: str) -> MethodMetrics:
        """The metrics of one method that we serve ("package.Service/Method")."""
        return _kept(self._served, method)

    def made(self, upstream: str, method: str) -> MethodMetrics:
        """The metrics of one method that we call."""
        return _kept(self._made, upstream, method)

    def hedged(self, upstream: str, method: str) -> HedgeMetrics:
        """The hedges of one method that we call."""
        return self._hedged.setdefault((upstream, method), HedgeMetrics(upstream, method))

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        yield from _families(
            self._served.values(),
            ("rpc_server_call_duration_seconds", "Time to serve a call."),
            ("rpc_server_active_calls", "Calls that are being served."),
            ["rpc_method"],
        )
        yield from _families(
            self._made.values(),
            ("rpc_client_call_duration_seconds", "Time until a call of ours was over."),
            ("rpc_client_active_calls", "Calls of ours that are not over."),
            ["server_address", "rpc_method"],
        )
        yield from self._hedges()

    def _hedges(self) -> Iterator[Metric]:
        labels = ["server_address", "rpc_method"]
        made = CounterMetricFamily(
            "rpc_client_hedges", "Attempts beside a call of ours that was late.", labels=labels
        )
        won = CounterMetricFamily(
            "rpc_client_hedges_won", "Calls that such an attempt answered first.", labels=labels
        )
        for each in list(self._hedged.values()):
            made.add_metric(each.labels, each.made)
            won.add_metric(each.labels, each.won)
        yield made
        yield won


def _kept(known: dict[tuple[str, ...], MethodMetrics], *labels: str) -> MethodMetrics:
    return known.setdefault(labels, MethodMetrics(*labels))


def _families(
    methods: Iterable[MethodMetrics],
    duration: tuple[str, str],
    active: tuple[str, str],
    labels: list[str],
) -> Iterator[Metric]:
    durations = HistogramMetricFamily(*duration, labels=[*labels, "rpc_response_status_code"])
    actives = GaugeMetricFamily(*active, labels=labels)
    for method in list(methods):
        actives.add_metric(method.labels, method.active)
        for code, counts in list(method.outcomes.items()):
            *buckets, total = counts.copy()
            cumulated = zip(_BOUNDS, accumulate(buckets), strict=True)
            durations.add_metric([*method.labels, code], list(cumulated), total)
    yield durations
    yield actives


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
