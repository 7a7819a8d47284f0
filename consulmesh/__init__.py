"""A proxyless gRPC service mesh on Consul: discovery, health and policy inside gRPC's own core."""

from consulmesh.catalog import Upstream
from consulmesh.config import ConfigError, MeshConfig
from consulmesh.instances import Instance

__all__ = ["ConfigError", "Instance", "MeshConfig", "Upstream"]
