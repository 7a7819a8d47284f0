"""The endpoints of clusters (gRFC A27, A37, A56): what gRPC core balances over.

gRPC core refuses a whole assignment for one bad entry (a host name, a port out of range, an address
named twice, a weight of zero), so each of these is left out here, with a warning.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from consulmesh.instances import Instance, Locality
from consulmesh.xds.chain import Warn
from consulmesh.xds.messages import (
    ClusterLoadAssignment,
    HealthStatus,
    LbEndpoint,
    LocalityLbEndpoints,
)

_PORTS: Final = range(1, 65536)

Address = tuple[str, int]
Group = tuple[str, Mapping[Address, Instance]]
"""Instances that calls are sent to together, and the target that they are of."""


def groups(
    targets: Sequence[str],
    instances_by_target: Mapping[str, Sequence[Instance]],
    near: Locality | None,
    warn: Warn,
) -> list[Group]:
    """Return the usable instances of targets in the order in which they are to be called.

    Those of a target come before those of the next one, and where it is known what is near, the
    near ones of a target before its others. An address is in one group, the first, and no group is
    empty.
    """
    found: dict[tuple[int, int], dict[Address, Instance]] = defaultdict(dict)
    taken: dict[Address, Instance] = {}
    for order, target in enumerate(targets):
        for address, instance in _usable(instances_by_target.get(target, ()), warn).items():
            if address not in taken:
                taken[address] = instance
                distance = near.distance(instance.locality) if near else 0
                found[order, distance][address] = instance
    return [(targets[order], members) for (order, _), members in sorted(found.items())]


def assignment(name: str, groups: Sequence[Group], *, hashed: bool) -> Any:
    """Return the endpoints of a cluster: each group is a priority, used where those before fail.

    round_robin knows no weights, localities do: all instances of one weight are one locality, whose
    weight is theirs together; ring_hash gives the weight of its locality to each (gRFC A42).
    Without instances the assignment is empty, and calls fail at once.
    """
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            locality
            for priority, (target, members) in enumerate(groups)
            for locality in _localities(priority, target, members, hashed=hashed)
        ],
    )


def _localities(
    priority: int, target: str, members: Mapping[Address, Instance], *, hashed: bool
) -> list[Any]:
    classes = defaultdict(list)
    for address, instance in sorted(members.items()):
        classes[instance.weight].append(_endpoint(*address))
    return [
        LocalityLbEndpoints(
            priority=priority,
            locality={"region": target, "zone": f"weight-{weight}"},
            load_balancing_weight={"value": weight if hashed else weight * len(endpoints)},
            lb_endpoints=endpoints,
        )
        for weight, endpoints in sorted(classes.items())
    ]


def addresses(assignment: Any) -> set[Address]:
    """Return the addresses and ports of an assignment."""
    members = (entry for locality in assignment.endpoints for entry in locality.lb_endpoints)
    sockets = (entry.endpoint.address.socket_address for entry in members)
    return {(socket.address, socket.port_value) for socket in sockets}


def _usable(instances: Sequence[Instance], warn: Warn) -> Mapping[Address, Instance]:
    usable: dict[Address, Instance] = {}
    for instance in sorted(instances, key=lambda instance: instance.id):
        if instance.weight <= 0:
            continue  # the operator's way to say: no traffic
        try:
            address = (str(ip_address(instance.address)), instance.port)
        except ValueError:
            warn(f"{instance.id}: address {instance.address!r} is not an IP address")
            continue
        if instance.port not in _PORTS:
            warn(f"{instance.id}: port {instance.port} is out of range")
        elif address in usable:
            warn(f"{instance.id}: same address as {usable[address].id}")
        else:
            usable[address] = instance
    return usable


def _endpoint(address: str, port: int) -> Any:
    socket_address = {"address": address, "port_value": port}
    return LbEndpoint(
        health_status=HealthStatus.HEALTHY,
        endpoint={"address": {"socket_address": socket_address}},
    )
