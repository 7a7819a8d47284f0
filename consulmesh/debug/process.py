"""What a running process has of an upstream, as gRPC core inside it says.

Asked over gRPC, on the port of the instance that serves gRPC's admin services (gRFC A38).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import grpc

from consulmesh.channel import CHANNEL_OPTIONS
from consulmesh.client_certificate import ImpostorError
from consulmesh.consul_api import ConsulApi, Query
from consulmesh.debug.asking import reason
from consulmesh.debug.connections import Connection, connections, sample, state
from consulmesh.debug.held import Held, compared, held, in_force
from consulmesh.debug.policy import NotShownError
from consulmesh.debug.reading import ConfigRead, address_text, read
from consulmesh.instances import Instance, Listed, Locality
from consulmesh.mesh import ADMIN_PORT
from consulmesh.xds.resources import Resources

WINDOW: Final = timedelta(seconds=1)

Connect = Callable[[str], AbstractAsyncContextManager[grpc.aio.Channel]]
"""Gives a channel to an instance at an address; raises ImpostorError or OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One running instance of the caller; `error` says why nothing else is known."""

    instance: str
    address: str
    version: str
    error: str = ""
    states: tuple[str, ...] = ()
    calls: int = 0
    failed: int = 0
    recent: int = 0
    resources: tuple[Held, ...] = ()
    config: ConfigRead | None = None
    connections: tuple[Connection, ...] = ()

    @property
    def refusals(self) -> tuple[Held, ...]:
        """The resources that gRPC core refused, and still does."""
        return tuple(held for held in self.resources if held.refused)

    @property
    def stale(self) -> tuple[Held, ...]:
        """The resources that are others than Consul's."""
        return tuple(held for held in self.resources if not held.as_consul)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A registered instance of a calling service; `near` is what it was told of where it runs."""

    instance: Instance
    near: Locality | None


async def callers(consul: ConsulApi, of: str) -> tuple[str, list[Caller]]:
    """Return the service that a name means, and its instances or the one whose id it is.

    Raises ConsulError, and NotShownError where there is none.
    """
    services = (await consul.ask(Query.services())).data
    names = [of] if of in services else sorted(services)
    answers = await asyncio.gather(*(consul.ask(Query.health(name)) for name in names))
    for name, answer in zip(names, answers, strict=True):
        instances = [_caller(entry) for entry in answer.data or ()]
        if found := [each for each in instances if of in {name, each.instance.id}]:
            return name, sorted(found, key=lambda each: each.instance.id)
    raise NotShownError(f"Consul at {consul.url} lists no instance of {of!r}, nor one with that id")


def _caller(entry: Mapping[str, Any]) -> Caller:
    """Read a health entry; the locality of its node, unlike its own, is nothing it knows."""
    own = entry["Service"].get("Locality")
    return Caller(instance=Listed.of(entry).instance, near=Locality.of(own) if own else None)


def plain(address: str) -> grpc.aio.Channel:
    """Return a channel in plain text."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


async def process(
    instance: Instance,
    upstream: str,
    consul: Resources,
    names: Mapping[str, str],
    *,
    window: timedelta = WINDOW,
    connect: Connect = plain,
) -> Process:
    """Ask one instance; `names` are the ids of the upstream's instances by address."""
    port = instance.meta.get(ADMIN_PORT, "")
    address = address_text(instance.address, int(port) if port.isdecimal() else instance.port)
    blank = Process(instance=instance.id, address=address, version=instance.version)
    try:
        async with connect(address) as channel:
            resources = await held(channel, upstream)
            before = await sample(channel, upstream)
            await asyncio.sleep(window.total_seconds())
            after = await sample(channel, upstream)
    except (grpc.aio.AioRpcError, ImpostorError, OSError) as error:
        return replace(blank, error=reason(error))
    config = read(in_force(resources))
    calls, failed = _counts(after.channels.values())
    return replace(
        blank,
        states=tuple(state(each.data) for each in after.channels.values()),
        calls=calls,
        failed=failed,
        recent=max(0, calls - _counts(before.channels.values())[0]),
        resources=tuple(compared(resources, consul)),
        config=config,
        connections=tuple(connections(config, before, after, names)),
    )


def _counts(channels: Iterable[Any]) -> tuple[int, int]:
    """Return how many calls were started, and how many failed."""
    found = [each.data for each in channels]
    return sum(each.calls_started for each in found), sum(each.calls_failed for each in found)
