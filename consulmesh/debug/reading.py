"""xDS resources in plain values, for people: what they say, whoever made them.

Read out of the packed messages, and generically: a setting that nobody thought of here is shown by
its own name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from envoy.extensions.clusters.aggregate.v3 import cluster_pb2
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2,
)
from envoy.extensions.load_balancing_policies.pick_first.v3 import pick_first_pb2
from envoy.extensions.load_balancing_policies.ring_hash.v3 import ring_hash_pb2
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2
from envoy.extensions.load_balancing_policies.wrr_locality.v3 import wrr_locality_pb2
from google.protobuf import any_pb2, json_format
from google.protobuf.message import DecodeError, Message

from consulmesh.member import literal
from consulmesh.xds.messages import (
    Cluster,
    ClusterLoadAssignment,
    HttpConnectionManager,
    Listener,
    ResourceType,
    UpstreamTlsContext,
)

Packed = Mapping[ResourceType, Mapping[str, any_pb2.Any]]
Settings = Mapping[str, Any]

READABLE: Final = (
    cluster_pb2,
    client_side_weighted_round_robin_pb2,
    pick_first_pb2,
    ring_hash_pb2,
    round_robin_pb2,
    wrr_locality_pb2,
)
"""Messages that clusters may hold packed: only what is imported can be unpacked."""

_PATHS: Final = {"path": "", "prefix": "…", "safe_regex": " (expression)"}
_EVERYTHING: Final = {"…", "/…"}
_HUNDRED: Final = 100
_PICKED: Final = {"UNKNOWN", "HEALTHY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRead:
    """Which calls go where: `clusters` have their percentages; `settings` is all the rest."""

    match: str
    clusters: Mapping[str, float]
    retries: str
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRead:
    """One address of a cluster. `share` is its part of the calls of its priority, by weights."""

    address: str
    health: str
    priority: int
    locality: str
    locality_weight: int
    weight: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRead:
    """A cluster, its load balancing, what else it is told, and its endpoints, first priority first.

    `endpoints` is None where there is no assignment.
    """

    name: str
    balancing: str
    settings: Settings
    endpoints: tuple[EndpointRead, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRead:
    """What one client has of one upstream; routes in their order, the first that matches counts."""

    routes: tuple[RouteRead, ...]
    clusters: tuple[ClusterRead, ...]


def read(packed: Packed) -> ConfigRead:
    """Read the resources of one upstream."""
    assignments = packed.get(ResourceType.ENDPOINTS, {})
    return ConfigRead(
        routes=tuple(
            route
            for listener in packed.get(ResourceType.LISTENER, {}).values()
            for route in _routes(listener)
        ),
        clusters=tuple(
            _cluster(cluster, assignments)
            for _, cluster in sorted(packed.get(ResourceType.CLUSTER, {}).items())
        ),
    )


def compact(value: Any) -> str:
    """Write what a JSON value says in one line: `Name(key=value, …)`."""
    if isinstance(value, Mapping):
        if value.keys() == {"policies"}:  # of load balancing: wrappers around the one that counts
            policies = (policy["typed_extension_config"] for policy in value["policies"])
            return " or ".join(compact(policy["typed_config"]) for policy in policies)
        kind = value.get("@type", "").rpartition(".")[2]
        fields = settings_text({key: each for key, each in value.items() if key != "@type"})
        return f"{kind}({fields})" if fields or not kind else kind
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(compact, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def settings_text(settings: Settings) -> str:
    """Write settings in one line."""
    return ", ".join(f"{key}={compact(value)}" for key, value in settings.items())


def address_text(host: str, port: int) -> str:
    """Write where something listens, the same way for all who name it."""
    return f"{literal(host)}:{port}"


def enum_name(message: Message, field: str) -> str:
    """Return the name of the value that an enum field has."""
    described: Any = message.DESCRIPTOR.fields_by_name[field]
    return str(described.enum_type.values_by_number[getattr(message, field)].name)


def _routes(packed: any_pb2.Any) -> Iterator[RouteRead]:
    listener: Any = Listener()
    manager: Any = HttpConnectionManager()
    packed.Unpack(listener)
    listener.api_listener.api_listener.Unpack(manager)
    for host in manager.route_config.virtual_hosts:
        yield from map(_route, host.routes)


def _route(route: Any) -> RouteRead:
    action = route.route
    settings = {**_fields(route, "match", "route"), **_fields(action)}
    retries = settings.pop("retry_policy", None)
    weighted = {each.name: each.weight.value for each in action.weighted_clusters.clusters}
    whole = sum(weighted.values()) or 1
    for key in ("cluster", "weighted_clusters"):
        settings.pop(key, None)
    return RouteRead(
        match=_match(route.match),
        clusters={action.cluster: _HUNDRED}
        if action.cluster
        else {name: round(_HUNDRED * weight / whole, 2) for name, weight in weighted.items()},
        retries=f"{retries.get('num_retries', 1)}x on {retries.get('retry_on', '')}"
        if retries
        else "",
        settings=settings,
    )


def _match(match: Any) -> str:
    kind = match.WhichOneof("path_specifier")
    path = match.safe_regex.regex if kind == "safe_regex" else getattr(match, kind)
    said = f"{path}{_PATHS.get(kind, f' ({kind})')}"
    conditions = [_header(header) for header in match.headers]
    if rest := _fields(match, kind, "headers"):
        conditions.append(settings_text(rest))
    whom = "every call" if said in _EVERYTHING else said
    return f"{whom} with {' and '.join(conditions)}" if conditions else whom


def _header(header: Any) -> str:
    said = _fields(header, "name")
    return str(header.name) if said == {"present_match": True} else f"{header.name} {compact(said)}"


def _cluster(packed: any_pb2.Any, assignments: Mapping[str, any_pb2.Any]) -> ClusterRead:
    cluster: Any = Cluster()
    packed.Unpack(cluster)
    settings = _fields(cluster, "name", "type", "eds_cluster_config", "lb_policy")
    policy = settings.pop("load_balancing_policy", None)
    context = UpstreamTlsContext()
    if cluster.transport_socket.typed_config.Unpack(context):
        names = context.common_tls_context.validation_context.match_subject_alt_names
        settings["transport_socket"] = [name.exact for name in names]
    by_name = Cluster.LbPolicy.Name(cluster.lb_policy).lower()
    assigned = assignments.get(cluster.eds_cluster_config.service_name or cluster.name)
    hashed = cluster.lb_policy == Cluster.RING_HASH
    return ClusterRead(
        name=cluster.name,
        balancing=by_name if policy is None else compact(policy),
        settings=settings,
        endpoints=None if assigned is None else tuple(_endpoints(assigned, hashed=hashed)),
    )


def _endpoints(packed: any_pb2.Any, *, hashed: bool) -> Iterator[EndpointRead]:
    assignment: Any = ClusterLoadAssignment()
    packed.Unpack(assignment)
    for group in sorted(assignment.endpoints, key=lambda group: int(group.priority)):
        place = group.locality
        rivals = [each for each in assignment.endpoints if each.priority == group.priority]
        whole = sum(_parts(each, hashed=hashed) for each in rivals) or 1
        part = _parts(group, hashed=hashed) / (_members(group) or 1)
        for entry in group.lb_endpoints:
            at = entry.endpoint.address.socket_address
            yield EndpointRead(
                address=address_text(at.address, at.port_value),
                health=enum_name(entry, "health_status"),
                priority=group.priority,
                locality="/".join(filter(None, (place.region, place.zone, place.sub_zone))),
                locality_weight=group.load_balancing_weight.value,
                weight=_weight(entry),
                share=part / whole * _weight(entry) if _picked(entry) else 0.0,
            )


def _parts(group: Any, *, hashed: bool) -> int:
    """Return the weight of a locality; on a ring each of its members has it (gRFC A42)."""
    weight: int = group.load_balancing_weight.value
    return weight * _members(group) if hashed else weight


def _members(group: Any) -> int:
    return sum(map(_weight, filter(_picked, group.lb_endpoints)))


def _weight(entry: Any) -> int:
    return entry.load_balancing_weight.value or 1


def _picked(entry: Any) -> bool:
    """Say whether gRPC core sends it calls at all."""
    return enum_name(entry, "health_status") in _PICKED


def _fields(message: Message, *known: str) -> dict[str, Any]:
    """Return what is set in a message, but for the fields that are shown otherwise."""
    return {
        field.name: _field(message, field.name)
        for field, _ in message.ListFields()
        if field.name not in known
    }


def _field(message: Message, name: str) -> Any:
    alone = type(message)()
    alone.CopyFrom(message)
    for other, _ in message.ListFields():
        if other.name != name:
            alone.ClearField(other.name)
    try:
        return json_format.MessageToDict(alone, preserving_proto_field_name=True)[name]
    except (TypeError, DecodeError) as error:  # it holds a packed message of a type unknown here
        return f"unreadable: {error}"
