"""The mapping from what Consul says of one upstream to the xDS resources of it. Pure.

A compiled discovery chain is a graph: a router's routes lead to splitters or resolvers, splits
lead to resolvers, a resolver has a target, and targets have instances. The mapping walks it from
`StartNode`, and each target that calls are sent to becomes a cluster; what it meets and does not
map becomes a warning, so that no policy is lost silently.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf import any_pb2

from consulmesh.catalog import Upstream
from consulmesh.instances import Locality
from consulmesh.spiffe import SpiffeId
from consulmesh.xds import clusters, endpoints
from consulmesh.xds.chain import RequestTimeout, Warn
from consulmesh.xds.clusters import CallerPolicy
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


def resources(
    upstream: Upstream, near: Locality | None = None, domains: Sequence[str] = ()
) -> Resources:
    """Return the resources of an upstream: a listener with its routes, its clusters, endpoints.

    `near` is where the caller runs: of a target's instances, those near it are called first. With
    trust domains calls are mTLS, to who shows the SPIFFE id of the service in one of them.
    """
    warnings: list[str] = []
    warn = warnings.append
    walk = Walk(upstream, warn)
    table = list(walk.routes(upstream.chain["StartNode"]))
    caller = CallerPolicy.of(upstream.defaults, upstream.name, warn)
    assignments = {
        name: endpoints.assignment(
            name,
            endpoints.groups(destination.targets, upstream.instances_by_target, near, warn),
            hashed=clusters.hashed(destination.balancer),
        )
        for name, destination in walk.clusters.items()
    }
    made = {
        name: clusters.cluster(
            name,
            destination.balancer,
            caller,
            partial(_warn_of, name, warn),
            _identities(upstream, destination.targets, domains),
        )
        for name, destination in walk.clusters.items()
    }
    return Resources(
        by_type={
            ResourceType.CLUSTER: {name: pack(each) for name, each in made.items()},
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


def _identities(
    upstream: Upstream, targets: Sequence[str], domains: Sequence[str]
) -> Sequence[str]:
    """Return the SPIFFE ids of the services behind targets; those of peers are not known."""
    services = [upstream.chain["Targets"][target] for target in targets]
    found = {
        SpiffeId(domain=domain, datacenter=about["Datacenter"], service=about["Service"]): None
        for about in services
        if not about.get("Peer")
        for domain in domains
    }
    return [str(each) for each in found]


def _warn_of(cluster: str, warn: Warn, reason: str) -> None:
    warn(f"{cluster}: {reason}")
