"""What this process knows of its upstreams, kept current from Consul.

Everything runs on one event loop and nothing awaits between looking and acting: subscribers are
called from the watches, one change after the other.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self

from consulmesh.consul_api import ConsulApi, Query
from consulmesh.instances import REREGISTRATION_WINDOW, Instance
from consulmesh.targets import Target, awaited, health_query
from consulmesh.watch import Change, Watch, WatchState

LINGER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """One consistent view of an upstream; a new one is made for every change.

    `chain` is the compiled discovery chain (the object under "Chain") and `defaults` the calling
    service's service-defaults entry (empty where there is none), both as Consul answered: read
    only. `instances_by_target` has the usable instances of every target of the chain, by target
    id, ordered by address and port; a target without any is there with an empty tuple, and so is
    one of another datacenter or a peer to which calls only fail over, while nothing is known of it.
    """

    name: str
    chain: Mapping[str, Any]
    instances_by_target: Mapping[str, tuple[Instance, ...]]
    defaults: Mapping[str, Any]


Subscriber = Callable[[Upstream], None]


class Catalog:
    """Watches upstreams on demand on behalf of one calling service; an async context manager.

    An upstream is told to its subscribers only when every part of it is known. Errors change
    nothing: the last good view stays until Consul gives a better one. After its last subscriber
    has left, an upstream is watched for a little longer (`linger`), so that a client that only
    reconnects finds it known even while Consul is away.

    All mutable state: the followed upstreams, the targets they share, the caller's defaults.
    """

    def __init__(
        self,
        consul: ConsulApi,
        caller: str,
        *,
        window: timedelta = REREGISTRATION_WINDOW,
        linger: timedelta = LINGER,
    ) -> None:
        self._consul = consul
        self._window = window
        self._linger = linger
        self._followed: dict[str, _Followed] = {}
        self._targets: dict[Query, Target] = {}
        self._defaults: Mapping[str, Any] | None = None
        query = Query.config_entry("service-defaults", caller)
        self._defaults_watch = Watch(consul, query, self._defaults_changed)

    async def __aenter__(self) -> Self:
        self._defaults_watch.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watching; may be called twice."""
        watches = self._watches()
        for followed in list(self._followed.values()):
            self._forget(followed)
        await asyncio.gather(*(watch.aclose() for watch in watches))

    def subscribe(self, name: str, on_change: Subscriber) -> Callable[[], None]:
        """Call `on_change` with every new view of an upstream, at once if there is one already.

        Returns the function that ends it, which may be called twice.
        """
        followed = self._followed.get(name) or self._follow(name)
        followed.stay()
        key = object()
        followed.subscribers[key] = on_change
        if followed.view is not None:
            on_change(followed.view)
        return lambda: self._unsubscribe(followed, key)

    async def known(self, name: str) -> Upstream:
        """Wait until every part of an upstream is known; bound it with a timeout."""
        future: asyncio.Future[Upstream] = asyncio.get_running_loop().create_future()
        unsubscribe = self.subscribe(
            name, lambda view: None if future.done() else future.set_result(view)
        )
        try:
            return await future
        finally:
            unsubscribe()

    def get(self, name: str) -> Upstream | None:
        """Return the current view of a followed upstream, if it is known; never waits."""
        followed = self._followed.get(name)
        return followed.view if followed else None

    def states(self) -> list[WatchState]:
        """Return the state of every watch, for debugging and metrics."""
        return [watch.state for watch in self._watches()]

    def _watches(self) -> list[Watch]:
        chains = (followed.watch for followed in self._followed.values())
        targets = (target.watch for target in self._targets.values())
        return [self._defaults_watch, *chains, *targets]

    def _follow(self, name: str) -> "_Followed":
        watch = Watch(
            self._consul,
            Query.discovery_chain(name),
            lambda change: self._chain_changed(followed, change),
        )
        followed = self._followed[name] = _Followed(name, watch)
        watch.start()
        return followed

    def _unsubscribe(self, followed: "_Followed", key: object) -> None:
        if followed.subscribers.pop(key, None) is None or followed.subscribers:
            return
        followed.leave_later(self._linger, partial(self._forget, followed))

    def _forget(self, followed: "_Followed") -> None:
        followed.stay()
        del self._followed[followed.name]
        followed.watch.stop()
        followed.targets = {}
        self._release_targets()

    def _defaults_changed(self, change: Change) -> None:
        self._defaults = change.data or {}
        self._tell(self._followed.values())

    def _chain_changed(self, followed: "_Followed", change: Change) -> None:
        chain = change.data["Chain"]
        followed.chain = chain
        followed.targets = {
            target_id: self._target(health_query(target, chain["Datacenter"]))
            for target_id, target in chain["Targets"].items()
        }
        followed.awaited = awaited(chain)
        self._tell([followed])

    def _target(self, query: Query) -> Target:
        if query not in self._targets:
            self._targets[query] = Target(
                self._consul, query, self._window, lambda: self._target_changed(query)
            )
        return self._targets[query]

    def _target_changed(self, query: Query) -> None:
        self._tell(
            [f for f in self._followed.values() if self._targets[query] in f.targets.values()]
        )

    def _tell(self, changed: Iterable["_Followed"]) -> None:
        """Tell the subscribers of what has a new view; one that fails hides it from no other."""
        self._release_targets()
        with ExitStack() as all_of_them:
            for followed in list(changed):
                if (view := followed.renewed(self._defaults)) is not None:
                    for subscriber in followed.subscribers.values():
                        all_of_them.callback(subscriber, view)

    def _release_targets(self) -> None:
        """Stop following targets that no chain leads to any more."""
        used = {target.query for f in self._followed.values() for target in f.targets.values()}
        for query in self._targets.keys() - used:
            self._targets.pop(query).stop()


class _Followed:
    """One upstream: what is known of its parts, the last whole view, who wants to hear of it."""

    def __init__(self, name: str, watch: Watch) -> None:
        self.name = name
        self.watch = watch
        self.subscribers: dict[object, Subscriber] = {}
        self.chain: Mapping[str, Any] | None = None
        self.targets: dict[str, Target] = {}
        self.awaited: frozenset[str] = frozenset()
        self.view: Upstream | None = None
        self._leave: asyncio.TimerHandle | None = None

    def renewed(self, defaults: Mapping[str, Any] | None) -> Upstream | None:
        """Make the view anew; None while a part is unknown, or if it is the same as before."""
        known = {target_id: target.instances for target_id, target in self.targets.items()}
        unknown = {target_id for target_id, instances in known.items() if instances is None}
        if self.chain is None or defaults is None or unknown & self.awaited:
            return None
        instances = {target_id: instances or () for target_id, instances in known.items()}
        view = Upstream(
            name=self.name, chain=self.chain, instances_by_target=instances, defaults=defaults
        )
        if view == self.view:
            return None
        self.view = view
        return view

    def leave_later(self, linger: timedelta, forget: Callable[[], None]) -> None:
        """Forget this upstream after a while, unless somebody asks for it until then."""
        loop = asyncio.get_running_loop()
        self._leave = loop.call_later(linger.total_seconds(), forget)

    def stay(self) -> None:
        """Do not forget it after all."""
        if self._leave is not None:
            self._leave.cancel()
            self._leave = None
