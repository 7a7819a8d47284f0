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
    "catalog": ("Catalog", "Upstream"),
    "config": ("ConfigError", "MeshConfig"),
    "instances": ("Instance",),
    "member": ("Member",),
    "mesh": ("Mesh", "run"),
    "registration": ("Check", "Registration"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # to a type checker a name that is not there must be an error

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value
