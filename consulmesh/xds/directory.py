"""The resources of the upstreams that somebody listens to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consulmesh.catalog import Upstream
from consulmesh.instances import Locality
from consulmesh.xds.resources import Resources, resources

Listener = Callable[[str, Resources], None]

log = structlog.get_logger()


class Catalog(Protocol):
    """Where upstreams are learnt."""

    def subscribe(self, name: str, on_change: Callable[[Upstream], None]) -> Callable[[], None]:
        """Call `on_change` with every view of it, until the returned function is called."""


@dataclass(slots=True)
class _Entry:
    unsubscribe: Callable[[], None]
    listeners: list[Listener] = field(default_factory=list)
    upstream: Upstream | None = None
    resources: Resources | None = None


class Directory:
    """Maps each watched upstream to resources once per change, for all its listeners.

    `near` is where they run, if that is known. `domains` gives the trust domains where calls are to
    be mTLS: until there is one, no upstream is known.

    All mutable state: an entry for each name that is listened to. Listeners are called on the event
    loop and must not block.
    """

    def __init__(
        self,
        catalog: Catalog,
        near: Locality | None = None,
        domains: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self._catalog = catalog
        self._near = near
        self._domains = domains
        self._entries: dict[str, _Entry] = {}

    def listen(self, name: str, listener: Listener) -> None:
        """Call the listener with an upstream's resources: at once if known, and when changed."""
        entry = self._entries.get(name) or self._watch(name)
        entry.listeners.append(listener)
        if entry.resources:
            listener(name, entry.resources)

    def leave(self, name: str, listener: Listener) -> None:
        """Take a listener away; the catalog need not watch for the last one any more."""
        entry = self._entries[name]
        entry.listeners.remove(listener)
        if not entry.listeners:
            del self._entries[name]
            entry.unsubscribe()

    def resources(self, name: str) -> Resources | None:
        """Return the resources of an upstream, None where they are not known (yet)."""
        entry = self._entries.get(name)
        return entry.resources if entry else None

    def timeout(self, name: str, method: str) -> float | None:
        """Return the seconds that Consul allows a method of an upstream, if it says so."""
        entry = self._entries.get(name)
        return entry.resources.timeout(method) if entry and entry.resources else None

    def endpoint_count(self, name: str) -> int:
        """Return how many instances of an upstream are known to be usable."""
        entry = self._entries.get(name)
        return entry.resources.endpoint_count if entry and entry.resources else 0

    def snapshot(self) -> Mapping[str, Resources | None]:
        """Return the resources of all watched upstreams; from any thread."""
        return {name: entry.resources for name, entry in tuple(self._entries.items())}

    def _watch(self, name: str) -> _Entry:
        entry = _Entry(unsubscribe=lambda: None)
        self._entries[name] = entry
        entry.unsubscribe = self._catalog.subscribe(name, self._changed)
        return entry

    def renew(self) -> None:
        """Map all upstreams again: the trust domains are others."""
        for entry in tuple(self._entries.values()):
            if entry.upstream is not None:
                self._changed(entry.upstream)

    def _changed(self, upstream: Upstream) -> None:
        entry = self._entries[upstream.name]
        entry.upstream = upstream
        domains = self._domains() if self._domains else ()
        if self._domains and not domains:
            return
        before = entry.resources
        entry.resources = after = resources(upstream, self._near, domains)
        if before is None or before.endpoint_count != after.endpoint_count:
            log.info("endpoints", upstream=upstream.name, count=after.endpoint_count)
        for warning in after.warnings:
            if before is None or warning not in before.warnings:
                log.warning("policy_without_effect", upstream=upstream.name, detail=warning)
        for listener in tuple(entry.listeners):
            listener(upstream.name, after)
