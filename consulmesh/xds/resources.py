"""The mapping from what Consul says of one upstream to the xDS resources of it. Pure.

A compiled discovery chain is a graph: a router's routes lead to splitters or resolvers, splits
lead to resolvers, a resolver has a target, and targets have instances. The mapping walks it from
`StartNode`; what it meets and does not map becomes a warning, so that no policy is lost silently.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from google.protobuf import any_pb2

from consulmesh.catalog import Upstream
from consulmesh.xds import endpoints, routes
from consulmesh.xds.chain import Json, MethodPolicy, RequestTimeout, Warn, duration
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

_BALANCERS: Final = {"", "round_robin"}
_MAPPED: Final = {"Target", "Default", "ConnectTimeout", "RequestTimeout"}
_CONNECT_TIMEOUTS: Final = {timedelta(), timedelta(seconds=5)}  # unset, Consul's default
_PLACE: Final = ("Namespace", "Partition", "Datacenter", "Peer")
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
    chain = upstream.chain
    policy = MethodPolicy.of(chain.get("ServiceMeta") or {}, warn)
    node = _resolver(chain["Nodes"], chain["StartNode"], warn)
    target = node["Resolver"]["Target"]
    cluster = _cluster_name(upstream, target)
    table = routes.routes(routes.every_call(), routes.to_cluster(cluster), policy.retryable)
    instances = upstream.instances_by_target.get(target, ())
    assignment = endpoints.assignment(cluster, target, instances, warn)
    _warn_of_caller(upstream, warn)
    return Resources(
        by_type={
            ResourceType.CLUSTER: {cluster: pack(endpoints.cluster(cluster))},
            ResourceType.ENDPOINTS: {cluster: pack(assignment)},
            ResourceType.LISTENER: {upstream.name: pack(_listener(upstream.name, table))},
        },
        timeouts=(*policy.timeouts, *_timeout(node)),
        warnings=tuple(warnings),
        endpoint_count=sum(len(locality.lb_endpoints) for locality in assignment.endpoints),
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


def _cluster_name(upstream: Upstream, target: str) -> str:
    """Return a name that is unique to the upstream: its own for the service itself.

    So the cluster of a service is the same whether Consul knows it yet or not, which matters: a
    call that waits for its connection waits for the cluster that it was routed to first.
    """
    chain, about = upstream.chain, upstream.chain["Targets"][target]
    itself = about["Service"] == chain["ServiceName"] and not about.get("ServiceSubset")
    nearby = all(about.get(key) == chain.get(key) for key in _PLACE)
    return upstream.name if itself and nearby else f"{upstream.name}/{target}"


def _resolver(nodes: Json, node_id: str, warn: Warn) -> Json:
    """Follow the graph from a node to the resolver where (most of) the calls end."""
    node: Json = nodes[node_id]
    _warn_of_balancer(node, warn)
    if node["Type"] == "router":
        *ahead, last = node["Routes"]
        for route in ahead:
            warn(f"{node_id}: route {_match(route)} is not applied")
        return _resolver(nodes, last["NextNode"], warn)
    if node["Type"] == "splitter":
        heaviest = max(node["Splits"], key=lambda split: split.get("Weight", 0))
        if len(node["Splits"]) > 1:
            warn(f"{node_id}: not applied, all calls go to {heaviest['NextNode']}")
        return _resolver(nodes, heaviest["NextNode"], warn)
    _warn_of_resolver(node_id, node["Resolver"], warn)
    return node


def _match(route: Json) -> str:
    http = ((route.get("Definition") or {}).get("Match") or {}).get("HTTP") or {}
    return ", ".join(f"{key}={value}" for key, value in http.items()) or "of every call"


def _timeout(node: Json) -> Iterator[RequestTimeout]:
    if span := duration(node["Resolver"].get("RequestTimeout")):
        yield RequestTimeout(prefix="/", exact=False, timeout=span)


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


def _warn_of_balancer(node: Json, warn: Warn) -> None:
    policy = (node.get("LoadBalancer") or {}).get("Policy", "")
    if policy not in _BALANCERS:
        warn(f"{node['Name']}: load balancer {policy} is not applied, round_robin is")


def _warn_of_resolver(node_id: str, resolver: Json, warn: Warn) -> None:
    for key in sorted(resolver.keys() - _MAPPED):
        if resolver[key]:
            warn(f"{node_id}: {key} is not applied")
    if duration(resolver.get("ConnectTimeout")) not in _CONNECT_TIMEOUTS:
        warn(f"{node_id}: ConnectTimeout is unknown to gRPC core")


def _warn_of_caller(upstream: Upstream, warn: Warn) -> None:
    """Warn of the caller's UpstreamConfig, as far as it concerns this upstream."""
    config = upstream.defaults.get("UpstreamConfig") or {}
    named = [entry for entry in config.get("Overrides") or () if entry["Name"] == upstream.name]
    entries = (config.get("Defaults") or {}, *named)
    said = {key for entry in entries for key, value in entry.items() if value}
    for key in sorted(said - _SELECTORS):
        warn(f"UpstreamConfig of the caller: {key} is not applied")
