"""The mapping from what Consul says of one upstream to the xDS resources of it. Pure.

A compiled discovery chain is a graph: a router's routes lead to splitters or resolvers, splits
lead to resolvers, a resolver has a target, and targets have instances. The mapping walks it from
`StartNode`, and each target that calls are sent to becomes a cluster; what it meets and does not
map becomes a warning, so that no policy is lost silently.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import any_pb2

from consulmesh.catalog import Upstream
from consulmesh.xds import endpoints
from consulmesh.xds.chain import RequestTimeout, Warn
from consulmesh.xds.messages import (
    HttpConnectionManager,
    HttpFilter,
    Listener,
    ResourceType,
    RouteConfiguration,
    Router,
    VirtualHost,
    pack,
)
from consulmesh.xds.walk import Walk

_SELECTORS: Final = {"Name", "Namespace", "Partition", "Peer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """All an ADS stream needs of one upstream.

    `by_type` holds the packed resources by type and name. `timeouts` is for the caller to apply as
    the call's own deadline, first match first: gRPC core's route timeouts fire early
    (grpc/grpc#34547). `warnings` says what of Consul's policy has no effect.
    """

    by_type: Mapping[ResourceType, Mapping[str, any_pb2.Any]]
    timeouts: tuple[RequestTimeout, ...]
    warnings: tuple[str, ...]
    endpoint_count: int

    def timeout(self, method: str) -> float | None:
        """Return the seconds a method may take ("/package.Service/Method"), if anything says so."""
        matching = (entry.timeout for entry in self.timeouts if entry.matches(method))
        span = next(matching, None)
        return span.total_seconds() if span else None


def resources(upstream: Upstream) -> Resources:
    """Return the resources of an upstream: a listener with its routes, its clusters, endpoints."""
    warnings: list[str] = []
    warn = warnings.append
    walk = Walk(upstream, warn)
    table = list(walk.routes(upstream.chain["StartNode"]))
    assignments = {
        cluster: endpoints.assignment(
            cluster, target, upstream.instances_by_target.get(target, ()), warn
        )
        for cluster, target in walk.clusters.items()
    }
    _warn_of_caller(upstream, warn)
    clusters = {name: pack(endpoints.cluster(name)) for name in assignments}
    return Resources(
        by_type={
            ResourceType.CLUSTER: clusters,
            ResourceType.ENDPOINTS: {name: pack(each) for name, each in assignments.items()},
            ResourceType.LISTENER: {upstream.name: pack(_listener(upstream.name, table))},
        },
        timeouts=tuple(walk.timeouts),
        warnings=tuple(dict.fromkeys(warnings)),
        endpoint_count=len(set().union(*map(endpoints.addresses, assignments.values()))),
    )


def nowhere(name: str) -> Resources:
    """Return the resources of an upstream that nobody knows: calls to it fail at once."""
    node = {"Type": "resolver", "Name": name, "Resolver": {"Target": name}}
    chain = {
        "ServiceName": name,
        "StartNode": "start",
        "Nodes": {"start": node},
        "Targets": {name: {"Service": name}},
    }
    return resources(Upstream(name=name, chain=chain, instances_by_target={}, defaults={}))


def _listener(name: str, table: Iterable[Any]) -> Any:
    """Return a listener with its routes inside it (gRFC A71 recommends it: a round trip less)."""
    manager = HttpConnectionManager(
        route_config=RouteConfiguration(
            name=name,
            virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=table)],
        ),
        http_filters=[HttpFilter(name="router", typed_config=pack(Router()))],
    )
    return Listener(name=name, api_listener={"api_listener": pack(manager)})


def _warn_of_caller(upstream: Upstream, warn: Warn) -> None:
    """Warn of the caller's UpstreamConfig, as far as it concerns this upstream."""
    config = upstream.defaults.get("UpstreamConfig") or {}
    named = [entry for entry in config.get("Overrides") or () if entry["Name"] == upstream.name]
    entries = (config.get("Defaults") or {}, *named)
    said = {key for entry in entries for key, value in entry.items() if value}
    for key in sorted(said - _SELECTORS):
        warn(f"UpstreamConfig of the caller: {key} is not applied")
