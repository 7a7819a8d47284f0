"""What Consul says now of an upstream, mapped as every client maps it."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any, Final

from consulmesh.catalog import Catalog, Upstream
from consulmesh.consul_api import ConsulApi, ConsulError, Query
from consulmesh.debug.reading import ConfigRead, address_text, read, settings_text
from consulmesh.instances import MAINTENANCE, Listed, Locality, Status
from consulmesh.targets import health_query
from consulmesh.topology import ignored
from consulmesh.xds import matching
from consulmesh.xds.resources import resources

PATIENCE: Final = timedelta(seconds=5)

_POLL: Final = 0.02  # seconds
_LONGEST_REASON: Final = 160
_OF_CONSUL: Final = {"Target", "Default"}
_USUAL: Final = {"ConnectTimeout": "5s"}


class NotShownError(Exception):
    """What was asked for cannot be shown; the message says why, to who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A registered instance of a service that the chain leads to, whether calls go there or not.

    `unused` says why it is in no cluster, empty where it is in one; `zone` is where it runs.
    """

    id: str
    service: str
    address: str
    version: str
    status: str
    weight: int
    zone: str
    unused: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What Consul says of calls to `service`; `caller` is whose UpstreamConfig counts.

    `near` is where the caller runs: the instances there come first. `unanswered` are queries that
    Consul cannot answer now, and why: their instances are not known.

    `timeouts` are seconds by path, the first that matches counts; the caller's channel applies
    them. `callers` are whom intentions allow to call.
    """

    service: str
    caller: str | None
    near: str
    consul: str
    callers: tuple[str, ...]
    chain: tuple[str, ...]
    config: ConfigRead
    timeouts: tuple[tuple[str, float], ...]
    warnings: tuple[str, ...]
    unanswered: tuple[str, ...]
    instances: tuple[Candidate, ...]

    @property
    def names(self) -> Mapping[str, str]:
        """Instance ids by address."""
        return {address: each.id for address, each in self.by_address.items()}

    @property
    def by_address(self) -> Mapping[str, Candidate]:
        """The instances by address; of several the one that is called, if one is.

        A process that died leaves its registration behind, and another may have its port by now.
        """
        return {
            each.address: each for each in sorted(self.instances, key=lambda each: not each.unused)
        }


async def policy(
    consul: ConsulApi,
    service: str,
    caller: str | None,
    *,
    near: Locality | None = None,
    domains: Sequence[str] = (),
    patience: timedelta = PATIENCE,
) -> tuple[Policy, Upstream]:
    """Ask for everything about an upstream; raises ConsulError and NotShownError.

    `domains` are the trust domains where calls are mTLS.

    Returns the view that it was made of, too.
    """
    await _known(consul, service)
    if caller is not None:
        await _known(consul, caller)
    view, unanswered = await _view(consul, service, caller, patience)
    mapped = resources(view, near, domains)
    config = read(mapped.by_type)
    instances = tuple(await _candidates(consul, view, config, mapped.warnings))
    own = await consul.ask(Query.config_entry("service-defaults", service))
    said = Policy(
        service=service,
        caller=caller,
        near=_place(near or Locality()),
        consul=consul.url,
        callers=tuple(await _callers(consul, service)),
        chain=tuple(_chain(view.chain)),
        config=config,
        timeouts=tuple(
            (entry.prefix if entry.exact else f"{entry.prefix}…", entry.timeout.total_seconds())
            for entry in mapped.timeouts
        ),
        warnings=(*ignored(own.data or {}), *mapped.warnings),
        unanswered=tuple(unanswered),
        instances=instances,
    )
    return said, view


async def _known(consul: ConsulApi, name: str) -> None:
    """Raise NotShownError for a name that means nothing: Consul has a chain for every name."""
    services, chain, defaults = await asyncio.gather(
        consul.ask(Query.services()),
        consul.ask(Query.discovery_chain(name)),
        consul.ask(Query.config_entry("service-defaults", name)),
    )
    nodes = chain.data["Chain"]["Nodes"].values()
    routed = not all(node.get("Resolver", {}).get("Default") for node in nodes)
    if name in services.data or defaults.data or routed:
        return
    others = sorted(services.data.keys() - {"consul"})
    close = get_close_matches(name, others, n=1)
    meant = f"did you mean {close[0]}?" if close else f"it knows {', '.join(others) or 'none'}"
    raise NotShownError(f"Consul at {consul.url} knows no service {name!r}; {meant}")


async def _view(
    consul: ConsulApi, service: str, caller: str | None, patience: timedelta
) -> tuple[Upstream, list[str]]:
    """Return the view that a client has which starts now, and the queries without an answer."""
    async with Catalog(consul, caller or service) as catalog:
        catalog.subscribe(service, lambda _: None)
        with suppress(TimeoutError):
            async with asyncio.timeout(patience.total_seconds()):
                while not _settled(catalog, service):  # noqa: ASYNC110 - watches tell only of changes
                    await asyncio.sleep(_POLL)
        missing = [
            f"{state.query}: {state.error or 'no answer'}"
            for state in catalog.states()
            if state.answered_at is None
        ]
        view = catalog.get(service)
    if view is None:
        raise NotShownError(
            f"Consul at {consul.url} does not say all of {service}: clients keep what they had, "
            f"and one that starts now has nothing. {'; '.join(missing)}"
        )
    return view if caller else replace(view, defaults={}), missing


def _settled(catalog: Catalog, service: str) -> bool:
    """Whether the view is there, and each query has an answer or cannot have one now."""
    tried = all(state.answered_at or state.error for state in catalog.states())
    return tried and catalog.get(service) is not None


async def _callers(consul: ConsulApi, service: str) -> list[str]:
    entry = await consul.ask(Query.config_entry("service-intentions", service))
    sources = (entry.data or {}).get("Sources") or ()
    return sorted(
        source["Name"]
        for source in sources
        if source.get("Action") == "allow" or source.get("Permissions")
    )


async def _candidates(
    consul: ConsulApi, view: Upstream, config: ConfigRead, warnings: Sequence[str]
) -> list[Candidate]:
    """Return all instances of all services that the chain has as targets."""
    queries = dict.fromkeys(
        health_query(target | {"Subset": {}}, view.chain["Datacenter"])
        for target in view.chain["Targets"].values()
    )
    answers = await asyncio.gather(*(_answer(consul, query) for query in queries))
    used = {endpoint.address for cluster in config.clusters for endpoint in cluster.endpoints or ()}
    found = (_candidate(entry, used, warnings) for answer in answers for entry in answer)
    return sorted(found, key=lambda each: (each.service, each.id))


async def _answer(consul: ConsulApi, query: Query) -> Sequence[Mapping[str, Any]]:
    """Return the instances, none where it cannot be said: the view has named the query."""
    try:
        return (await consul.ask(query)).data or ()
    except ConsulError as error:
        if error.status is None:
            raise
        return ()


def _candidate(entry: Mapping[str, Any], used: set[str], warnings: Sequence[str]) -> Candidate:
    listed = Listed.of(entry)
    instance = listed.instance
    address = address_text(_host(instance.address), instance.port)
    refused = (text for text in warnings if text.startswith(f"{instance.id}: "))
    if not listed.usable:
        unused = _unhealthy(entry["Checks"]) or f"weight {instance.weight}"
    elif address in used:
        unused = next(refused, "").removeprefix(f"{instance.id}: ")
    else:
        unused = next(refused, "no target of the routes takes it (filter of a subset, or no calls)")
        unused = unused.removeprefix(f"{instance.id}: ")
    return Candidate(
        id=instance.id,
        service=entry["Service"]["Service"],
        address=address,
        version=instance.version,
        status=instance.status,
        weight=instance.weight,
        zone=_place(instance.locality),
        unused=unused,
    )


def _unhealthy(checks: Iterable[Mapping[str, Any]]) -> str:
    """Say what is wrong with an instance, as its checks do."""
    reasons = []
    for check in checks:
        if check["Status"] != Status.CRITICAL:
            continue
        if check["CheckID"].startswith(MAINTENANCE):
            reasons.append(f"maintenance: {check.get('Notes') or 'no reason given'}")
        else:
            said = check.get("Output") or "not probed yet"
            reasons.append(f"{check['Name']}: {said}")
    return " ".join("; ".join(reasons).split())[:_LONGEST_REASON]


def _place(locality: Locality) -> str:
    return "/".join(filter(None, (locality.region, locality.zone)))


def _host(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _chain(chain: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each node of a compiled chain, as calls come by."""
    nodes, due = chain["Nodes"], [chain["StartNode"]]
    for name in due:  # grows while it is walked
        line, following = _node(name, nodes[name], chain["Targets"])
        due += [each for each in following if each not in due]
        yield line


def _node(
    name: str, node: Mapping[str, Any], targets: Mapping[str, Mapping[str, Any]]
) -> tuple[str, list[str]]:
    if node["Type"] == "router":
        routes = [
            (matching.described(route.get("Definition") or {}), route["NextNode"])
            for route in node["Routes"]
        ]
        text = "; ".join(f"{match} → {following}" for match, following in routes)
        return f"{name}: {text}", [following for _, following in routes]
    if node["Type"] == "splitter":
        splits = [(split.get("Weight", 0), split["NextNode"]) for split in node["Splits"]]
        text = ", ".join(f"{weight} % → {following}" for weight, following in splits)
        return f"{name}: {text}", [following for _, following in splits]
    resolver = node["Resolver"]
    subset = targets[resolver["Target"]].get("Subset") or {}
    said = {
        key: value
        for key, value in {**resolver, **subset}.items()
        if value and key not in _OF_CONSUL and _USUAL.get(key) != value
    }
    more = f" ({settings_text(said)})" if said else ""
    return f"{name} → {resolver['Target']}{more}", []
