"""The resources of the upstreams that somebody listens to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from consulmesh.catalog import Upstream
from consulmesh.xds.resources import Resources, resources

Listener = Callable[[str, Resources], None]

log = structlog.get_logger()


class Catalog(Protocol):
    """Where upstreams are learnt."""

    def subscribe(self, name: str, notify: Callable[[Upstream], None]) -> Callable[[], None]:
        """Call `notify` with every view of the upstream, until the returned function is called."""


@dataclass(slots=True)
class _Entry:
    unsubscribe: Callable[[], None]
    listeners: list[Listener] = field(default_factory=list)
    upstream: Upstream | None = None
    resources: Resources | None = None


class Directory:
    """Maps each watched upstream to resources once per change, for all its listeners.

    All mutable state: an entry for each name that is listened to. Listeners are called on the event
    loop and must not block.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
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

    def upstreams(self) -> Mapping[str, Upstream | None]:
        """Return the watched upstreams as the catalog showed them last."""
        return {name: entry.upstream for name, entry in self._entries.items()}

    def _watch(self, name: str) -> _Entry:
        entry = _Entry(unsubscribe=lambda: None)
        self._entries[name] = entry
        entry.unsubscribe = self._catalog.subscribe(name, self._changed)
        return entry

    def _changed(self, upstream: Upstream) -> None:
        entry = self._entries[upstream.name]
        before = entry.resources
        entry.upstream, entry.resources = upstream, resources(upstream)
        if before is None or before.warnings != entry.resources.warnings:
            for warning in entry.resources.warnings:
                log.warning("policy_without_effect", upstream=upstream.name, detail=warning)
        for listener in tuple(entry.listeners):
            listener(upstream.name, entry.resources)
