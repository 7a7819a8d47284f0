"""The ADS stream as a state machine: what is answered, when, and what is not."""

from typing import Any

from consulmesh.xds.messages import DiscoveryRequest, ResourceType
from consulmesh.xds.resources import Resources, resources
from consulmesh.xds.stream import Nack, Stream
from tests.consulmesh.xds_world import instance, upstream

LISTENER, CLUSTER, ENDPOINTS = (
    ResourceType.LISTENER,
    ResourceType.CLUSTER,
    ResourceType.ENDPOINTS,
)
RETRIES = {"grpc-service": "a.B", "retryable-methods": "C"}
ECHO = resources(upstream([instance(7001)]))
MORE = resources(upstream([instance(7001), instance(7002)]))
RETRIED = resources(upstream([instance(7001)], ServiceMeta=RETRIES))
MOVED = resources(
    upstream(
        StartNode="x",
        Nodes={"x": {"Type": "resolver", "Name": "x", "Resolver": {"Target": "x"}}},
        Targets={"x": {"Service": "x"}},
    )
)


class Client:
    """The other side of a stream: remembers the last response of each type."""

    def __init__(self, *known: Resources, listens: bool = True) -> None:
        self.stream = Stream()
        self.last: dict[ResourceType, Any] = {}
        if listens:
            self.ask(LISTENER, "echo")
        for view in known:
            self.stream.update("echo", view)

    @classmethod
    def subscribed(cls) -> "Client":
        """Return one that has all of `echo` and said so."""
        client = cls(ECHO)
        for type_ in (LISTENER, CLUSTER, ENDPOINTS):
            if type_ is not LISTENER:
                client.ask(type_, "echo")
            client.take()
            client.ask(type_, "echo")
        return client

    def ask(
        self,
        type_: ResourceType,
        *names: str,
        error: str = "",
        version: str = "",
        answering: Any = None,
    ) -> Nack | None:
        """Subscribe to these names, answering the last response of the type (or another)."""
        request = DiscoveryRequest(type_url=type_, resource_names=names, version_info=version)
        if answered := answering or self.last.get(type_):
            request.response_nonce = answered.nonce
            request.version_info = answered.version_info
        if error:
            request.error_detail.message = error
        return self.stream.receive(request)

    def take(self) -> list[ResourceType]:
        """Take the responses that are due; return their types."""
        due = list(self.stream.responses())
        self.last.update({ResourceType(response.type_url): response for response in due})
        return [ResourceType(response.type_url) for response in due]


def test_a_listener_is_answered_once_it_is_known() -> None:
    """A subscription waits for the catalog, is answered, and then not again."""
    client = Client()
    before = client.take()
    client.stream.update("echo", ECHO)
    after = client.take()
    again = client.take()

    assert (before, after, again) == ([], [LISTENER], [])


def test_an_acknowledged_client_gets_only_what_changed() -> None:
    """A new instance is one push of endpoints; the same content again is none."""
    client = Client.subscribed()
    client.stream.update("echo", MORE)
    pushed = client.take()
    client.stream.update("echo", resources(upstream([instance(7002), instance(7001)])))
    same = client.take()

    assert pushed == [ENDPOINTS]
    assert same == []


def test_clusters_and_endpoints_go_before_the_listener() -> None:
    """What a route points to is there before the route (make before break)."""
    client = Client(ECHO)
    client.ask(ENDPOINTS, "echo")
    client.ask(CLUSTER, "echo")

    assert client.take() == [CLUSTER, ENDPOINTS, LISTENER]


def test_a_cluster_that_is_gone_stays_until_the_client_lets_go() -> None:
    """After routes changed, the old cluster is still answered while the client asks for it."""
    client = Client.subscribed()
    client.stream.update("echo", MOVED)
    first = client.take()
    client.ask(LISTENER, "echo")
    client.ask(CLUSTER, "echo", "echo/x")
    second = client.take()
    both = len(client.last[CLUSTER].resources)
    client.ask(CLUSTER, "echo/x")

    assert (first, second, both) == ([LISTENER], [CLUSTER], 2)
    assert client.take() == []


def test_a_stale_request_changes_nothing() -> None:
    """A request that answers an older response than the last is ignored."""
    client = Client(ECHO)
    client.take()
    older = client.last[LISTENER]
    client.stream.update("echo", RETRIED)
    client.take()
    client.ask(LISTENER, answering=older)
    kept = client.stream.upstreams
    client.ask(LISTENER)

    assert kept == ("echo",)
    assert client.stream.upstreams == ()


def test_a_refusal_stands_until_something_is_accepted() -> None:
    """A NACK is returned and kept, its content is not sent again, and an ACK clears it."""
    client = Client(ECHO)
    client.take()
    nack = client.ask(LISTENER, "echo", error="bad route")
    standing = client.stream.nacks
    repeated = client.take()
    client.stream.update("echo", RETRIED)
    client.take()
    client.ask(LISTENER, "echo")

    assert nack is not None
    assert (nack.type, nack.detail) == (LISTENER, "bad route")
    assert standing == (nack,)
    assert repeated == []
    assert client.stream.nacks == ()


def test_a_known_upstream_is_pushed_while_another_is_awaited() -> None:
    """A listener that nobody knows yet holds back listeners, not the endpoints of others."""
    client = Client.subscribed()
    client.ask(LISTENER, "echo", "other")
    client.stream.update("echo", MORE)

    assert client.take() == [ENDPOINTS]
    assert client.stream.lacks("other")


def test_a_client_that_comes_back_keeps_what_it_has() -> None:
    """A client with resources of an earlier stream lacks nothing, so it gets no placeholder."""
    client = Client(listens=False)
    client.ask(LISTENER, "echo", version="of an earlier stream")
    lacks_at_first = client.stream.lacks("echo")
    client.stream.update("echo", ECHO)
    client.take()
    client.ask(LISTENER, "echo", "other")

    assert not lacks_at_first
    assert client.stream.lacks("other")


def test_versions_follow_the_content() -> None:
    """Two servers give equal content the same version, and different content another."""
    versions = []
    for view in (ECHO, ECHO, RETRIED):
        client = Client(view)
        client.take()
        versions.append(client.last[LISTENER].version_info)

    assert versions[0] == versions[1] != versions[2]


def test_other_resource_types_are_ignored() -> None:
    """A subscription to routes is not answered: they are inside the listener."""
    client = Client(ECHO)
    client.take()
    request = DiscoveryRequest(
        type_url="type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        resource_names=["echo"],
    )

    assert client.stream.receive(request) is None
    assert client.take() == []


def test_a_subscription_given_up_and_renewed_is_answered_again() -> None:
    """A name that was let go of and asked for again is sent again, though it did not change."""
    client = Client.subscribed()
    client.ask(ENDPOINTS)
    silent = client.take()
    client.ask(ENDPOINTS, "echo")

    assert silent == []
    assert client.take() == [ENDPOINTS]


def test_settled_is_when_all_was_answered() -> None:
    """A stream is settled when nothing is due and the client answered every response."""
    client = Client.subscribed()
    states = [client.stream.settled]
    client.stream.update("echo", MORE)
    states.append(client.stream.settled)
    client.take()
    states.append(client.stream.settled)
    client.ask(ENDPOINTS, "echo")
    states.append(client.stream.settled)

    assert states == [True, False, False, True]
