"""A proxyless gRPC service mesh on Consul: discovery, health and policy inside gRPC's own core.

What is named here is imported when it is first used: a command that wants one module of the package
does not wait for gRPC and the rest of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

_MODULES = {
    "Catalog": "catalog",
    "Check": "registration",
    "ConfigError": "config",
    "Instance": "instances",
    "Member": "member",
    "Mesh": "mesh",
    "MeshConfig": "config",
    "Registration": "registration",
    "Upstream": "catalog",
    "run": "mesh",
}

if not TYPE_CHECKING:  # a type checker knows the names above, and that there are no others

    def __getattr__(name: str) -> object:
        """Import what the package is asked for (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found
