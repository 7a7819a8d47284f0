"""One ADS stream as a state machine without I/O (xDS transport protocol, state of the world)."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import any_pb2

from consulmesh.xds.messages import DiscoveryResponse, ResourceType
from consulmesh.xds.resources import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack:
    """A response that the client refused; it keeps what it had before."""

    type: ResourceType
    version: str
    detail: str


@dataclass(slots=True)
class _Subscription:
    """What a client wants of one type, and how far it got.

    `sent` is by name what the client has of what it still wants: answers are never smaller than it.
    `held` are the names it brought resources of from an earlier stream.
    """

    names: frozenset[str] = frozenset()
    nonce: str = ""
    version: str = ""
    acked: str = ""
    sent: Mapping[str, any_pb2.Any] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    owed: bool = False
    answered: bool = True
    nack: Nack | None = None


class Stream:
    """The server's side of one stream: requests and changes go in, responses come out.

    All mutable state: per resource type the subscription, the resources of each upstream that the
    client listens to (None: not known yet), the nonce counter and the node that the client named.
    The names of a type are answered together, as LDS and CDS demand: an answer waits for upstreams
    that are not known yet.
    """

    def __init__(self) -> None:
        self.node = ""
        self._nonce = 0
        self._upstreams: dict[str, Resources | None] = {}
        self._subscriptions = {type_: _Subscription() for type_ in ResourceType}

    def __repr__(self) -> str:
        return f"<Stream of {self.node or 'unknown'} for {', '.join(self.upstreams) or 'nothing'}>"

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The names of the listeners that the client subscribed to."""
        return tuple(sorted(self._upstreams))

    @property
    def nacks(self) -> tuple[Nack, ...]:
        """The refusals that stand: no later response of the type was accepted."""
        return tuple(s.nack for s in self._subscriptions.values() if s.nack)

    @property
    def versions(self) -> Mapping[str, str]:
        """The version the client accepted last, by the short name of the type."""
        return {type_.name: s.acked for type_, s in self._subscriptions.items()}

    @property
    def settled(self) -> bool:
        """Whether the client answered all there is for it to know."""
        return all(
            self._complete(type_, subscription) and subscription.answered
            for type_, subscription in self._subscriptions.items()
        )

    def lacks(self, upstream: str) -> bool:
        """Say whether the client waits for a listener without having anything to go on with."""
        held = self._subscriptions[ResourceType.LISTENER].held
        return self._upstreams.get(upstream, ...) is None and upstream not in held

    def receive(self, request: Any) -> Nack | None:
        """Take a DiscoveryRequest: a subscription, an acknowledgement or (returned) a refusal.

        One that answers an older response than the last is stale and changes nothing: the client
        repeats what it wants when it answers the last one.
        """
        self.node = request.node.id or self.node
        try:
            type_ = ResourceType(request.type_url)
        except ValueError:  # RDS among others: routes are inside the listener
            return None
        subscription = self._subscriptions[type_]
        if not subscription.nonce:
            subscription.held = frozenset(request.resource_names if request.version_info else ())
        elif request.response_nonce != subscription.nonce:
            return None
        else:
            _settle(subscription, type_, request)
        self._subscribe(type_, frozenset(request.resource_names))
        return subscription.nack if request.HasField("error_detail") else None

    def update(self, upstream: str, resources: Resources) -> None:
        """Take the resources of an upstream, if the client listens to it."""
        if upstream in self._upstreams:
            self._upstreams[upstream] = resources

    def responses(self) -> Iterator[Any]:
        """Yield the DiscoveryResponses that are due: new names, and content that changed."""
        waiting = None in self._upstreams.values()
        for type_, subscription in self._subscriptions.items():
            content = self._content(type_, subscription)
            if waiting and subscription.names - content.keys():
                continue
            if subscription.owed or content != subscription.sent:
                yield self._respond(type_, subscription, content)

    def _subscribe(self, type_: ResourceType, names: frozenset[str]) -> None:
        subscription = self._subscriptions[type_]
        subscription.owed |= bool(names - subscription.names)
        subscription.names = names
        subscription.sent = {n: r for n, r in subscription.sent.items() if n in names}
        if type_ is ResourceType.LISTENER:
            self._upstreams = {name: self._upstreams.get(name) for name in names}

    def _complete(self, type_: ResourceType, subscription: _Subscription) -> bool:
        content = self._content(type_, subscription)
        return subscription.names == subscription.sent.keys() and content == subscription.sent

    def _content(
        self, type_: ResourceType, subscription: _Subscription
    ) -> Mapping[str, any_pb2.Any]:
        """Return what the client is to have; a name that nobody knows any more keeps its last."""
        known = dict(subscription.sent)
        for resources in self._upstreams.values():
            known.update(resources.by_type[type_] if resources else {})
        return {name: known[name] for name in sorted(subscription.names) if name in known}

    def _respond(
        self, type_: ResourceType, subscription: _Subscription, content: Mapping[str, any_pb2.Any]
    ) -> Any:
        self._nonce += 1
        subscription.nonce = str(self._nonce)
        subscription.version = _digest(content.values())
        subscription.sent = content
        subscription.owed = False
        subscription.answered = False
        return DiscoveryResponse(
            type_url=type_,
            version_info=subscription.version,
            nonce=subscription.nonce,
            resources=content.values(),
        )


def _settle(subscription: _Subscription, type_: ResourceType, request: Any) -> None:
    subscription.answered = True
    if request.HasField("error_detail"):
        subscription.nack = Nack(
            type=type_, version=subscription.version, detail=request.error_detail.message
        )
    else:
        subscription.nack = None
        subscription.acked = subscription.version


def _digest(resources: Iterable[any_pb2.Any]) -> str:
    """Return a version that is the same for the same content, also from another ADS server."""
    digest = hashlib.blake2b(digest_size=8)
    for resource in resources:
        digest.update(resource.value)
    return digest.hexdigest()
