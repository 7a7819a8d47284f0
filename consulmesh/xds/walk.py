"""The walk through a compiled discovery chain: which calls go to which of its targets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import partial
from typing import Any, Final

from consulmesh.catalog import Upstream
from consulmesh.xds import clusters, matching, routes
from consulmesh.xds.chain import Json, MethodPolicy, RequestTimeout, Warn, duration
from consulmesh.xds.matching import UnmatchableError

_MAPPED: Final = {"Target", "Default", "ConnectTimeout", "RequestTimeout", "Failover"}
_IN_ORDER: Final = {"", "sequential"}
_HEADERS: Final = {"RequestHeaders", "ResponseHeaders"}
_RETRIES: Final = {"NumRetries", "RetryOn", "RetryOnConnectFailure", "RetryOnStatusCodes"}
_NEXT: Final = {"Service", "ServiceSubset", "Namespace", "Partition"}
"""What of a route's destination Consul has turned into the next node already."""
_CONNECT_TIMEOUTS: Final = {timedelta(), timedelta(seconds=5)}  # unset, Consul's default
_PLACE: Final = ("Namespace", "Partition", "Datacenter", "Peer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a cluster's calls go.

    `targets` are in the order in which they are tried, `balancer` is Consul's LoadBalancer.
    """

    targets: Sequence[str]
    balancer: Json


class Walk:
    """One walk through a compiled chain.

    All mutable state: the clusters that calls are sent to, by name, and the timeouts of methods,
    first match first.
    """

    def __init__(self, upstream: Upstream, warn: Warn) -> None:
        self._upstream = upstream
        self._nodes: Mapping[str, Json] = upstream.chain["Nodes"]
        self._warn = warn
        self._policy = MethodPolicy.of(upstream.chain.get("ServiceMeta") or {}, warn)
        self.clusters: dict[str, Destination] = {}
        self.timeouts = list(self._policy.timeouts)

    def routes(self, start: str) -> Iterator[Any]:
        """Yield the routes of a node, first hit first."""
        node = self._nodes[start]
        if node["Type"] != "router":
            yield from self._routes(start, matching.every_call(), {}, start)
            return
        for route in node["Routes"]:
            definition = route.get("Definition") or {}
            name = f"{start}: route {matching.described(definition)}"
            try:
                match = matching.route_match(definition)
            except UnmatchableError as reason:
                self._warn(f"{name} is not applied: {reason}")
                continue
            destination = definition.get("Destination") or {}
            yield from self._routes(route["NextNode"], match, destination, name)

    def _routes(self, node_id: str, match: Any, destination: Json, name: str) -> Iterator[Any]:
        """Yield the routes of one match; warnings start with the name."""
        for key in sorted(destination.keys() - _NEXT - _RETRIES - {"RequestTimeout"}):
            if destination[key]:
                self._warn(f"{name}: {key} is not applied")
        leaves = list(self._leaves(node_id, Fraction(1)))
        action = routes.to_clusters(self._weights(leaves))
        action.hash_policy.extend(self._hash_policies(leaves))
        retries = routes.retry_policy(destination, lambda reason: self._warn(f"{name}: {reason}"))
        if retries is not None:
            action.retry_policy.CopyFrom(retries)
        if span := duration(destination.get("RequestTimeout")) or self._longest(leaves):
            self._limit(match, span, name)
        yield from routes.routes(match, action, self._policy.retryable)

    def _leaves(self, node_id: str, share: Fraction) -> Iterator[tuple[str, Fraction]]:
        """Yield the resolvers that a node leads to, each with its share of the calls."""
        node = self._nodes[node_id]
        if node["Type"] != "splitter":
            _warn_of_resolver(node_id, node["Resolver"], self._warn)
            yield node_id, share
            return
        for split in node["Splits"]:
            definition = split.get("Definition") or {}
            for key in sorted(definition.keys() & _HEADERS):
                if definition[key]:
                    self._warn(f"{node_id}: {key} is not applied")
            percent = Fraction(str(split.get("Weight", 0)))  # Consul leaves a weight of 0 out
            if percent:
                yield from self._leaves(split["NextNode"], share * percent / 100)

    def _weights(self, leaves: Iterable[tuple[str, Fraction]]) -> Mapping[str, int]:
        """Return clusters with their parts of the calls, in hundredths of a percent."""
        weights: dict[str, int] = {}
        for resolver, share in leaves:
            destination = self._destination(resolver)
            cluster = _cluster_name(self._upstream, destination.targets[0])
            self.clusters[cluster] = destination
            weights[cluster] = weights.get(cluster, 0) + max(1, round(share * 10_000))
        return weights

    def _destination(self, resolver: str) -> Destination:
        node = self._nodes[resolver]
        failover = node["Resolver"].get("Failover") or {}
        return Destination(
            targets=(node["Resolver"]["Target"], *(failover.get("Targets") or ())),
            balancer=node.get("LoadBalancer") or {},
        )

    def _hash_policies(self, leaves: Iterable[tuple[str, Fraction]]) -> Sequence[Any]:
        """Return what is hashed of calls to any of the resolvers: a route has one list of it."""
        found: list[Any] = []
        for resolver, _ in leaves:
            balancer = self._nodes[resolver].get("LoadBalancer") or {}
            for policy in clusters.hash_policies(balancer, partial(self._warn_of, resolver)):
                if policy not in found:
                    found.append(policy)
        return found

    def _warn_of(self, node_id: str, reason: str) -> None:
        self._warn(f"{node_id}: {reason}")

    def _longest(self, leaves: Iterable[tuple[str, Fraction]]) -> timedelta:
        """Return the longest of the resolvers' timeouts; zero where one has none."""
        spans = [
            duration(self._nodes[leaf]["Resolver"].get("RequestTimeout")) for leaf, _ in leaves
        ]
        return max(spans) if all(spans) else timedelta()

    def _limit(self, match: Any, span: timedelta, name: str) -> None:
        """Note how long the calls of a match may take: the caller knows them by their paths."""
        kind = match.WhichOneof("path_specifier")
        if match.headers or kind == "safe_regex" or match.HasField("case_sensitive"):
            self._warn(f"{name}: RequestTimeout is applied to plain paths only")
            return
        path = getattr(match, kind)
        timeout = RequestTimeout(prefix=path or "/", exact=kind == "path", timeout=span)
        self.timeouts.append(timeout)


def _cluster_name(upstream: Upstream, target: str) -> str:
    """Return a name that is unique to the upstream: its own for the service itself.

    So the cluster of a service is the same whether Consul knows it yet or not, which matters: a
    call that waits for its connection waits for the cluster that it was routed to first.
    """
    chain, about = upstream.chain, upstream.chain["Targets"][target]
    itself = about["Service"] == chain["ServiceName"] and not about.get("ServiceSubset")
    nearby = all(about.get(key) == chain.get(key) for key in _PLACE)
    return upstream.name if itself and nearby else f"{upstream.name}/{target}"


def _warn_of_resolver(node_id: str, resolver: Json, warn: Warn) -> None:
    for key in sorted(resolver.keys() - _MAPPED):
        if resolver[key]:
            warn(f"{node_id}: {key} is not applied")
    policy = ((resolver.get("Failover") or {}).get("Policy") or {}).get("Mode", "")
    if policy not in _IN_ORDER:
        warn(f"{node_id}: failover is in the order of its targets, not {policy}")
    if duration(resolver.get("ConnectTimeout")) not in _CONNECT_TIMEOUTS:
        warn(f"{node_id}: ConnectTimeout is unknown to gRPC core")
