"""Clusters and their endpoints (gRFC A27, A37): what gRPC core balances over.

gRPC core refuses a whole assignment for one bad entry (a host name, a port out of range, an address
named twice, a weight of zero), so each of these is left out here, with a warning.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from consulmesh.instances import Instance
from consulmesh.xds.chain import Warn
from consulmesh.xds.messages import (
    Cluster,
    ClusterLoadAssignment,
    ConfigSource,
    HealthStatus,
    LbEndpoint,
    LocalityLbEndpoints,
)

_ADS: Final = ConfigSource(ads={}, resource_api_version="V3")
_PORTS: Final = range(1, 65536)


def cluster(name: str) -> Any:
    """Return a cluster that takes its endpoints from ADS and goes round them in turn."""
    return Cluster(
        name=name,
        type="EDS",
        eds_cluster_config={"eds_config": _ADS, "service_name": name},
        lb_policy="ROUND_ROBIN",
    )


def assignment(name: str, region: str, instances: Sequence[Instance], warn: Warn) -> Any:
    """Return the endpoints of a cluster, of one priority.

    round_robin knows no weights, localities do: all instances of one weight are one locality, whose
    weight is theirs together. Without instances the assignment is empty, and calls fail at once.
    """
    classes = defaultdict(list)
    for address, instance in sorted(_usable(instances, warn).items()):
        classes[instance.weight].append(_endpoint(*address))
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            LocalityLbEndpoints(
                locality={"region": region, "zone": f"weight-{weight}"},
                load_balancing_weight={"value": weight * len(members)},
                lb_endpoints=members,
            )
            for weight, members in sorted(classes.items())
        ],
    )


def addresses(assignment: Any) -> set[tuple[str, int]]:
    """Return the addresses and ports of an assignment."""
    members = (entry for locality in assignment.endpoints for entry in locality.lb_endpoints)
    sockets = (entry.endpoint.address.socket_address for entry in members)
    return {(socket.address, socket.port_value) for socket in sockets}


def _usable(instances: Sequence[Instance], warn: Warn) -> Mapping[tuple[str, int], Instance]:
    usable: dict[tuple[str, int], Instance] = {}
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
