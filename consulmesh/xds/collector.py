"""Metrics of discovery: what is known of each upstream, and what became of telling gRPC core."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from consulmesh.catalog import Catalog
from consulmesh.xds.directory import Directory
from consulmesh.xds.messages import ResourceType
from consulmesh.xds.servicer import AdsServicer


class DiscoveryCollector(Collector):
    """Reads the figures when they are asked for, from any thread."""

    def __init__(self, catalog: Catalog, directory: Directory, ads: AdsServicer) -> None:
        self._catalog = catalog
        self._directory = directory
        self._ads = ads

    def describe(self) -> list[Metric]:
        """Promise nothing: several meshes in one process (tests) have the same metrics."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        yield from self._of_upstreams()
        yield from self._of_watches()
        yield from self._of_ads()

    def _of_upstreams(self) -> Iterator[Metric]:
        endpoints = GaugeMetricFamily(
            "mesh_upstream_endpoints",
            "Usable instances known, by upstream; NaN before the first answer.",
            labels=["server_address"],
        )
        warnings = GaugeMetricFamily(
            "mesh_upstream_policy_warnings",
            "Parts of Consul's policy that have no effect, by upstream.",
            labels=["server_address"],
        )
        for name, resources in self._directory.snapshot().items():
            count = resources.endpoint_count if resources else float("nan")
            endpoints.add_metric([name], count)
            warnings.add_metric([name], len(resources.warnings) if resources else 0)
        yield endpoints
        yield warnings

    def _of_watches(self) -> Iterator[Metric]:
        age = GaugeMetricFamily(
            "mesh_watch_age_seconds",
            "Time since Consul last answered, by query; NaN before the first answer.",
            labels=["query"],
        )
        errors = CounterMetricFamily(
            "mesh_watch_errors", "Failed requests to Consul, by query.", labels=["query"]
        )
        now = time.monotonic()
        for state in self._catalog.states():
            answered = state.answered_at
            age.add_metric([state.query], float("nan") if answered is None else now - answered)
            errors.add_metric([state.query], state.errors)
        yield age
        yield errors

    def _of_ads(self) -> Iterator[Metric]:
        pushes = CounterMetricFamily(
            "mesh_xds_pushes", "Resource updates sent to xDS clients, by type.", labels=["type"]
        )
        nacks = CounterMetricFamily(
            "mesh_xds_nacks", "Resource updates that xDS clients refused.", labels=["type"]
        )
        for type_ in ResourceType:
            pushes.add_metric([type_.name.lower()], self._ads.pushes[type_])
            nacks.add_metric([type_.name.lower()], self._ads.nacks[type_])
        yield pushes
        yield nacks


@contextmanager
def collected(
    catalog: Catalog,
    directory: Directory,
    ads: AdsServicer,
    registry: CollectorRegistry = REGISTRY,
) -> Iterator[None]:
    """Have the metrics in a registry for the block."""
    collector = DiscoveryCollector(catalog, directory, ads)
    registry.register(collector)
    try:
        yield
    finally:
        registry.unregister(collector)
