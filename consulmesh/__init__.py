"""A proxyless gRPC service mesh on Consul: discovery, health and policy inside gRPC's own core."""

from consulmesh.catalog import Catalog, Upstream
from consulmesh.config import ConfigError, MeshConfig
from consulmesh.instances import Instance
from consulmesh.member import Member
from consulmesh.mesh import Mesh, run
from consulmesh.registration import Check, Registration

__all__ = [
    "Catalog",
    "Check",
    "ConfigError",
    "Instance",
    "Member",
    "Mesh",
    "MeshConfig",
    "Registration",
    "Upstream",
    "run",
]
