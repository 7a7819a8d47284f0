"""The mesh as Consul shows it at one moment: for people, not for calls.

Calls follow the catalog, which believes Consul only so far; this is what Consul says, all of it.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consulmesh.catalog import Upstream
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.instances import Instance, Listed
from consulmesh.xds.resources import resources

POLICIES: Final = (
    "service-defaults",
    "service-router",
    "service-splitter",
    "service-resolver",
)
"""The kinds of config entries that say how calls to a service are made, in their order."""
START_TIME: Final = "start_time"
"""Key in an instance's Meta of when its process began, RFC 3339."""

_CONSUL: Final = "consul"
_INTENTIONS: Final = "service-intentions"
_OF_CONSUL: Final = frozenset({"Kind", "Name", "CreateIndex", "ModifyIndex", "Hash"})
_APPLIED: Final = _OF_CONSUL | {"Protocol", "Meta", "UpstreamConfig", "Namespace", "Partition"}

Edge = tuple[str, str]
"""Who may call whom, by name; `*` is anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service with all its instances, usable or not.

    `policy` has the config entries about it by kind, as Consul has them; `warnings` are parts of
    what Consul makes of them that have no effect on at least one of its callers.
    """

    name: str
    instances: Sequence[Instance]
    policy: Mapping[str, Mapping[str, Any]]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The services by name, and the edges between them that intentions allow."""

    services: Sequence[Service]
    edges: Sequence[Edge]


async def topology(consul: ConsulApi) -> Topology:
    """Ask for everything at once; raises ConsulError."""
    names, intentions, *entries = await _all(
        consul,
        [
            Query.services(),
            Query.config_entries(_INTENTIONS),
            *(Query.config_entries(kind) for kind in POLICIES),
        ],
    )
    policies = {
        kind: {entry["Name"]: entry for entry in found or ()}
        for kind, found in zip(POLICIES, entries, strict=True)
    }
    edges = sorted(_edges(intentions or ()))
    services = sorted(name for name in names if name != _CONSUL)
    found = await asyncio.gather(*(_service(consul, name, policies, edges) for name in services))
    return Topology(services=found, edges=edges)


async def _service(
    consul: ConsulApi,
    name: str,
    policies: Mapping[str, Mapping[str, Mapping[str, Any]]],
    edges: Iterable[Edge],
) -> Service:
    listed, chain = await _all(consul, [Query.health(name), Query.discovery_chain(name)])
    defaults = policies["service-defaults"]
    callers = [defaults.get(caller, {}) for caller, called in edges if called == name]
    instances = (Listed.of(entry).instance for entry in listed)
    return Service(
        name=name,
        instances=sorted(instances, key=lambda instance: instance.id),
        policy={
            kind: {key: value for key, value in entries[name].items() if key not in _OF_CONSUL}
            for kind, entries in policies.items()
            if name in entries
        },
        warnings=[
            *ignored(defaults.get(name, {})),
            *_warnings(name, chain["Chain"], callers or [{}]),
        ],
    )


def ignored(entry: Mapping[str, Any]) -> list[str]:
    """Warn of what a service's own service-defaults ask of a proxy, which there is none of.

    Its callers do not know: a compiled chain has none of it.
    """
    return [
        f"service-defaults: {key} is not applied"
        for key, value in sorted(entry.items())
        if key not in _APPLIED and _said(value)
    ]


def _said(value: Any) -> bool:
    """Whether it is more than Consul's empty objects."""
    return any(map(_said, value.values())) if isinstance(value, dict) else bool(value)


def _warnings(
    name: str, chain: Mapping[str, Any], callers: Iterable[Mapping[str, Any]]
) -> list[str]:
    views = (
        Upstream(name=name, chain=chain, instances_by_target={}, defaults=defaults)
        for defaults in callers
    )
    return list(dict.fromkeys(warning for view in views for warning in resources(view).warnings))


def _edges(intentions: Iterable[Mapping[str, Any]]) -> Iterable[Edge]:
    for intention in intentions:
        for source in intention["Sources"]:
            if source.get("Action") == "allow" or source.get("Permissions"):
                yield source["Name"], intention["Name"]


async def _all(consul: ConsulApi, queries: Sequence[Query]) -> list[Any]:
    """The data of the answers; raises ConsulError for the first that fails."""
    answers = await asyncio.gather(*(consul.ask(query) for query in queries))
    return [answer.data for answer in answers]
