"""The targets of discovery chains: which health query each stands for, and its instances."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.instances import Believed, Instance, Listed
from consulmesh.watch import Change, Watch


def health_query(target: Mapping[str, Any], local_datacenter: str) -> Query:
    """Return the query for the instances of a target of a compiled chain."""
    subset = target.get("Subset") or {}
    datacenter = target.get("Datacenter")  # a peer has none
    params = {
        "filter": subset.get("Filter"),
        "passing": "1" if subset.get("OnlyPassing") else None,
        "dc": datacenter if datacenter != local_datacenter else None,
        "peer": target.get("Peer"),
    }
    return Query.health(target["Service"], **{k: v for k, v in params.items() if v})


def awaited(chain: Mapping[str, Any]) -> frozenset[str]:
    """Return the targets of a chain without which it is not known where calls go.

    Those elsewhere to which calls only fail over are not among them: the way there may be down.
    """
    resolvers = [node["Resolver"] for node in chain["Nodes"].values() if "Resolver" in node]
    first = {resolver["Target"] for resolver in resolvers}
    here = {
        target_id
        for target_id, target in chain["Targets"].items()
        if target.get("Datacenter") == chain["Datacenter"] and not target.get("Peer")
    }
    return frozenset(first | here)


class Target:
    """Follows one health query for all upstreams whose chains lead to it.

    `instances` is None until Consul's first answer; `on_change` is called whenever it changes.
    """

    def __init__(
        self, consul: ConsulApi, query: Query, window: timedelta, on_change: Callable[[], None]
    ) -> None:
        self.query = query
        self.users: set[str] = set()
        self.instances: tuple[Instance, ...] | None = None
        self._on_change = on_change
        self._believed = Believed(window)
        self._entries: tuple[Listed, ...] = ()
        self._timer: asyncio.TimerHandle | None = None
        self.watch = Watch(consul, query, self._listed)
        self.watch.start()

    def stop(self) -> None:
        """Stop following; may be called twice."""
        self._cancel_timer()
        self.watch.stop()

    def _listed(self, change: Change) -> None:
        self._entries = tuple(Listed.of(entry) for entry in change.data or ())
        self._judge()

    def _judge(self) -> None:
        before = self.instances
        self.instances = self._believed.update(self._entries, self.watch.resumed_at)
        self._judge_again_later()
        if self.instances != before:
            self._on_change()

    def _judge_again_later(self) -> None:
        self._cancel_timer()
        if (seconds := self._believed.uncertain_for(self._entries)) is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._window_over)

    def _window_over(self) -> None:
        """Drop what did not come back, unless Consul has been away meanwhile."""
        if self.watch.failing:
            self._believed.open_window()
        self._judge()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
