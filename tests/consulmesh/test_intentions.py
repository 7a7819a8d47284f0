"""Who may call, decided by Consul's intentions: the pure part, and what it is asked by."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consulmesh.context import CallContext
from consulmesh.errors import PermissionDenied, Unauthenticated
from consulmesh.intentions import IntentionAuthorization, Intentions
from consulmesh.spiffe import SpiffeId
from consulmesh.watch import Change

DOMAIN = "11111111-2222-3333-4444-555555555555.consul"
GET, SLOW = "/test.v1.EchoService/Get", "/test.v1.EchoService/Slow"


def rule(source: str, action: str = "", *permissions: dict[str, Any]) -> dict[str, Any]:
    """An intention as Consul lists it."""
    said: dict[str, Any] = {"SourceName": source, "DestinationName": "echo", "Action": action}
    return said | ({"Permissions": list(permissions)} if permissions else {})


def permission(action: str, **http: Any) -> dict[str, Any]:
    """One permission of an intention."""
    return {"Action": action, "HTTP": http}


def allowed(
    rules: list[dict[str, Any]],
    source: str = "web",
    path: str = GET,
    headers: Mapping[str, str] | None = None,
) -> bool:
    """Decide once, and once more by what was decided."""
    intentions = Intentions(rules)
    first = intentions.allow(source, path, lambda: headers or {})
    assert intentions.allow(source, path, lambda: headers or {}) == first
    return first


def test_what_nothing_allows_is_denied() -> None:
    """No intention, another's, or one that denies."""
    assert not allowed([])
    assert not allowed([rule("app", "allow")])
    assert not allowed([rule("web", "deny")])
    assert not allowed([rule("web")])
    assert allowed([rule("web", "allow")])


def test_the_first_that_is_about_a_source_counts() -> None:
    """Consul lists what is more exact first."""
    assert not allowed([rule("web", "deny"), rule("*", "allow")])
    assert allowed([rule("web", "allow"), rule("*", "deny")])
    assert allowed([rule("app", "deny"), rule("*", "allow")])


def test_permissions_are_tried_in_order() -> None:
    """The first that applies decides; where none does, the call is denied."""
    rules = [
        rule(
            "web",
            "",
            permission("deny", PathExact=SLOW),
            permission("allow", PathPrefix="/test.v1."),
        )
    ]

    assert allowed(rules)
    assert not allowed(rules, path=SLOW)
    assert not allowed(rules, path="/other.v1.Service/Get")
    assert not allowed([rule("web", "", permission("allow", PathExact=SLOW)), rule("*", "allow")])


@pytest.mark.parametrize(
    ("http", "headers", "applies"),
    [
        ({"PathRegex": r"/test\..*"}, {}, True),
        ({"PathRegex": r"test"}, {}, False),
        ({"PathRegex": r"("}, {}, False),
        ({"Methods": ["POST", "GET"]}, {}, True),
        ({"Methods": ["GET"]}, {}, False),
        ({"Header": [{"Name": "X-A", "Exact": "1"}]}, {"x-a": "1"}, True),
        ({"Header": [{"Name": "X-A", "Exact": "1"}]}, {"x-a": "2"}, False),
        ({"Header": [{"Name": "X-A", "Exact": "1"}]}, {}, False),
        ({"Header": [{"Name": "x-a", "Present": True}]}, {"x-a": ""}, True),
        ({"Header": [{"Name": "x-a", "Present": True, "Invert": True}]}, {}, True),
        ({"Header": [{"Name": "x-a", "Prefix": "a"}]}, {"x-a": "ab"}, True),
        ({"Header": [{"Name": "x-a", "Suffix": "b"}]}, {"x-a": "ab"}, True),
        ({"Header": [{"Name": "x-a", "Contains": "x"}]}, {"x-a": "ab"}, False),
        ({"Header": [{"Name": "x-a", "Regex": "a."}]}, {"x-a": "ab"}, True),
        ({"Header": [{"Name": "x-a", "Regex": "("}]}, {"x-a": "("}, False),
        ({"Header": [{"Name": "x-a"}]}, {"x-a": "1"}, False),
        ({"Header": [{"Name": "x-a", "Exact": "A", "IgnoreCase": True}]}, {"x-a": "A"}, False),
        ({"Something": "new"}, {}, False),
    ],
)
def test_conditions_mean_what_consul_says(
    http: dict[str, Any], headers: dict[str, str], *, applies: bool
) -> None:
    """What cannot be judged allows nothing."""
    assert allowed([rule("web", "", permission("allow", **http))], headers=headers) == applies


def test_what_cannot_be_judged_denies() -> None:
    """A denial with a condition that is unknown here holds for every call."""
    later = permission("allow", PathPrefix="/")

    assert not allowed([rule("web", "", permission("deny", Something="new"), later)])
    assert not allowed([rule("web", "", {"Action": "allow", "JWT": {"Providers": []}, "HTTP": {}})])
    assert not allowed([rule("web", "allow") | {"SourcePeer": "abroad"}])


@given(st.text("ab/*", max_size=4), st.text("ab/", max_size=4))
def test_nobody_gets_in_by_a_name(source: str, path: str) -> None:
    """Only web is allowed, whatever others call themselves and ask for."""
    intentions = Intentions([rule("web", "allow")])

    assert not intentions.allow(source, f"/{path}", dict)


class Peer:
    """What the transport proved of a peer."""

    def __init__(self, *uris: str, metadata: Any = ()) -> None:
        self._ids = [uri.encode() for uri in uris]
        self._metadata = metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        """Its certificate's names."""
        return {"peer_spiffe_id": self._ids}

    def invocation_metadata(self) -> Any:
        """What it sent."""
        return self._metadata


def of(service: str, domain: str = DOMAIN) -> str:
    """The SPIFFE id of a service."""
    return str(SpiffeId(domain=domain, datacenter="dc1", service=service))


def decide(authorization: IntentionAuthorization, peer: Any, method: str = GET[1:]) -> None:
    """Ask as the server does."""
    caller = authorization.identify(peer)
    authorization.authorize(method, caller, CallContext.fresh(), peer)


@pytest.fixture
def authorization() -> IntentionAuthorization:
    """That of echo, which web may call."""
    made = IntentionAuthorization("echo", lambda: [DOMAIN])
    rules = [rule("web", "", permission("allow", PathExact=GET))]
    made.changed(Change(data={"echo": rules}, resumed_at=0.0))
    return made


def test_a_certificate_of_the_mesh_is_needed(authorization: IntentionAuthorization) -> None:
    """None, one of another trust domain, one that names no service, or two: nobody we know."""
    decide(authorization, Peer(of("web")))
    for peer in (
        Peer(),
        Peer(of("web", "99999999-2222-3333-4444-555555555555.consul")),
        Peer("spiffe://example.org/workload"),
        Peer(of("web"), of("app")),
        Peer(of("web") + "/extra"),
    ):
        with pytest.raises(Unauthenticated):
            decide(authorization, peer)


def test_nobody_may_before_consul_has_said(authorization: IntentionAuthorization) -> None:
    """Closed until the first answer, and closed where Consul has no intention."""
    unknown = IntentionAuthorization("echo", lambda: [DOMAIN])
    with pytest.raises(PermissionDenied, match="not known yet"):
        decide(unknown, Peer(of("web")))
    authorization.changed(Change(data={"echo": None}, resumed_at=0.0))
    with pytest.raises(PermissionDenied):
        decide(authorization, Peer(of("web")))


def test_balancers_of_callers_may_ask_for_health_and_load(
    authorization: IntentionAuthorization,
) -> None:
    """Who may call anything may; others may not even that."""
    for method in (
        "grpc.health.v1.Health/Watch",
        "xds.service.orca.v3.OpenRcaService/StreamCoreMetrics",
    ):
        decide(authorization, Peer(of("web")), method)
        with pytest.raises(PermissionDenied):
            decide(authorization, Peer(of("app")), method)


def test_a_header_that_comes_twice_is_a_list(authorization: IntentionAuthorization) -> None:
    """Nobody passes by sending another value beside the right one."""
    only = permission("allow", Header=[{"Name": "x-a", "Exact": "1"}])
    authorization.changed(Change(data={"echo": [rule("web", "", only)]}, resumed_at=0.0))
    decide(authorization, Peer(of("web"), metadata=(("x-a", "1"),)))
    with pytest.raises(PermissionDenied):
        decide(authorization, Peer(of("web"), metadata=(("x-a", "1"), ("x-a", "2"))))
