"""Clusters (gRFC A27, A32, A42, A50, A58): how gRPC core balances, and what it bounds and ejects.

Consul's names are Envoy's. Where gRPC core has something near to what they mean, that is used and
the difference told; the whole table is in docs/operations.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Self

from consulmesh.xds.chain import Json, Warn, duration
from consulmesh.xds.messages import (
    CircuitBreakers,
    ClientSideWeightedRoundRobin,
    Cluster,
    ConfigSource,
    HashPolicy,
    LoadBalancingPolicy,
    OutlierDetection,
    RoundRobin,
    TransportSocket,
    UpstreamTlsContext,
    WrrLocality,
    pack,
)

PROVIDER: Final = "mesh"
"""The name of the bootstrap's certificate provider."""

_ADS: Final = ConfigSource(ads={}, resource_api_version="V3")
_POLICIES: Final = {
    "": "ROUND_ROBIN",
    "round_robin": "ROUND_ROBIN",
    "random": "ROUND_ROBIN",
    "least_request": "",  # by the loads that the instances report
    "ring_hash": "RING_HASH",
    "maglev": "RING_HASH",
}
_INSTEAD: Final = {"random": "round_robin", "maglev": "ring_hash"}
_SMALLEST_RING: Final = 1024  # where nothing is said, as in Consul
_LARGEST_RING: Final = 4096
"""gRPC core makes no larger one, whatever it is told."""
_WEIGHTS_OF: Final = {
    "enable_oob_load_report": {"value": True},
    "oob_reporting_period": timedelta(milliseconds=500),
    "weight_update_period": timedelta(milliseconds=500),
    "blackout_period": timedelta(seconds=1),
    "weight_expiration_period": timedelta(seconds=10),
}

_SELECTORS: Final = {"Name", "Namespace", "Partition", "Peer"}
_LIMIT: Final = "MaxConcurrentRequests"
_ALL: Final = 100  # percent


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerPolicy:
    """What the calling service's service-defaults say of its calls to one upstream.

    `most` is how many may be under way at once; `passive` Consul's PassiveHealthCheck.
    """

    most: int | None = None
    passive: Json | None = None

    @classmethod
    def of(cls, defaults: Json, upstream: str, warn: Warn) -> Self:
        """Read the UpstreamConfig of an entry; what of it has no effect is warned of.

        An override replaces what the defaults say, key by key, as in Consul.
        """
        config = defaults.get("UpstreamConfig") or {}
        named = [
            entry
            for entry in config.get("Overrides") or ()
            if entry["Name"] == upstream and not entry.get("Peer")
        ]
        said: dict[str, Any] = {}
        for entry in (config.get("Defaults") or {}, *named):
            said |= {key: value for key, value in entry.items() if value}
        limits = said.pop("Limits", {})
        passive = said.pop("PassiveHealthCheck", None)
        for key in sorted(said.keys() - _SELECTORS):
            warn(f"UpstreamConfig of the caller: {key} is not applied")
        for key in sorted(key for key, value in limits.items() if value and key != _LIMIT):
            warn(f"UpstreamConfig of the caller: Limits.{key} is not applied")
        return cls(most=limits.get(_LIMIT), passive=passive)


def cluster(
    name: str,
    balancer: Json,
    caller: CallerPolicy,
    warn: Warn,
    identities: Sequence[str] = (),
) -> Any:
    """Return a cluster that takes its endpoints from ADS.

    With identities (URIs) its connections are mTLS, and an endpoint must show one of these.
    """
    made = Cluster(
        name=name,
        type="EDS",
        eds_cluster_config={"eds_config": _ADS, "service_name": name},
    )
    _balance(made, balancer, warn)
    if caller.most is not None:
        threshold = {"max_requests": {"value": caller.most}}
        made.circuit_breakers.CopyFrom(CircuitBreakers(thresholds=[threshold]))
    if identities:
        made.transport_socket.CopyFrom(_mutual_tls(identities))
    if caller.passive:
        made.outlier_detection.CopyFrom(_outlier_detection(caller.passive))
    return made


def hashed(balancer: Json) -> bool:
    """Say whether calls go by a hash of something in them."""
    return _POLICIES.get(balancer.get("Policy", "")) == "RING_HASH"


def hash_policies(balancer: Json, warn: Warn) -> list[Any]:
    """Return what of a call is hashed, for its route: headers, which is all gRPC core knows."""
    if not hashed(balancer):
        return []
    policies = []
    for policy in balancer.get("HashPolicies") or ():
        header = str(policy.get("FieldValue", "")).lower()
        if policy.get("Field") != "header" or header.endswith("-bin"):
            warn(f"a hash of {_hashed_field(policy)} is not applied")
            continue
        terminal = bool(policy.get("Terminal"))
        policies.append(HashPolicy(header={"header_name": header}, terminal=terminal))
    if not policies:
        warn(f"{balancer['Policy']} has no header to hash: each call is sent at random")
    return policies


def _balance(made: Any, balancer: Json, warn: Warn) -> None:
    wanted = balancer.get("Policy", "")
    policy = _POLICIES.get(wanted, "ROUND_ROBIN")
    if wanted not in _POLICIES or wanted in _INSTEAD:
        instead = _INSTEAD.get(wanted, "round_robin")
        warn(f"load balancer {wanted} is not applied, {instead} is")
    if policy == "RING_HASH":
        made.lb_policy = policy
        made.ring_hash_lb_config.CopyFrom(_ring(balancer.get("RingHashConfig") or {}, warn))
    elif policy:
        made.lb_policy = policy
    else:
        if (balancer.get("LeastRequestConfig") or {}).get("ChoiceCount"):
            warn("ChoiceCount is not applied: all instances are chosen from, by weight")
        made.load_balancing_policy.CopyFrom(_weighted())


def _ring(config: Json, warn: Warn) -> Any:
    least = config.get("MinimumRingSize") or _SMALLEST_RING
    most = min(config.get("MaximumRingSize") or _LARGEST_RING, _LARGEST_RING)
    if least > _LARGEST_RING:
        warn(f"MinimumRingSize {least} is not applied, {_LARGEST_RING} is")
    return Cluster.RingHashLbConfig(
        minimum_ring_size={"value": min(least, most)}, maximum_ring_size={"value": most}
    )


def _weighted() -> Any:
    """Weights are the calls of an instance a second, divided by the load that it reports (A58).

    A client takes the first policy of a list that it knows (A52) and refuses the cluster if it
    knows none, so round_robin stands behind: Node does not know weights unless it is told to.
    """
    weighted = ClientSideWeightedRoundRobin(**_WEIGHTS_OF)
    children = [
        _policy("client_side_weighted_round_robin", weighted),
        _policy("round_robin", RoundRobin()),
    ]
    by_locality = WrrLocality(endpoint_picking_policy={"policies": children})
    return LoadBalancingPolicy(policies=[_policy("wrr_locality", by_locality)])


def _policy(name: str, config: Any) -> Any:
    named = {"name": f"envoy.load_balancing_policies.{name}", "typed_config": pack(config)}
    return LoadBalancingPolicy.Policy(typed_extension_config=named)


def _mutual_tls(identities: Sequence[str]) -> Any:
    """GRFC A29: our certificate and the roots come from the bootstrap's certificate provider."""
    provider = {"instance_name": PROVIDER}
    context = UpstreamTlsContext(
        common_tls_context={
            "tls_certificate_provider_instance": provider,
            "validation_context": {
                "ca_certificate_provider_instance": provider,
                "match_subject_alt_names": [{"exact": uri} for uri in identities],
            },
        }
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def _outlier_detection(passive: Json) -> Any:
    """Ejection by failure percentage (A50): gRPC core does not count failures in a row.

    MaxFailures becomes the least number of calls in an interval that says something of an instance.
    Of one alone nothing is said, unless all instances may be ejected: then that is a circuit
    breaker.
    """
    base = duration(passive.get("BaseEjectionTime")) or timedelta(seconds=30)
    percent = passive.get("MaxEjectionPercent") or 10
    enforcing = passive.get("EnforcingConsecutive5xx")
    return OutlierDetection(
        interval=duration(passive.get("Interval")) or timedelta(seconds=10),
        base_ejection_time=base,
        max_ejection_time=max(base, timedelta(minutes=5)),
        max_ejection_percent={"value": percent},
        failure_percentage_threshold={"value": 85},
        failure_percentage_minimum_hosts={"value": 1 if percent >= _ALL else 2},
        failure_percentage_request_volume={"value": max(1, passive.get("MaxFailures") or 5)},
        enforcing_failure_percentage={"value": _ALL if enforcing is None else enforcing},
        enforcing_success_rate={"value": 0},
    )


def _hashed_field(policy: Mapping[str, Any]) -> str:
    if policy.get("SourceIP"):
        return "SourceIP"
    return " ".join(str(policy[key]) for key in ("Field", "FieldValue") if policy.get(key))
