"""Who may call a service, by Consul's intentions, decided in the process that is called.

One watch keeps the list of what concerns the service; a call costs a look into a dict. What no
intention allows is denied, and so is everything before Consul's first answer. What was known last
holds while Consul is away.
Source: https://developer.hashicorp.com/consul/docs/reference/config-entry/service-intentions
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import structlog

from consulmesh.context import ContextSource
from consulmesh.errors import PermissionDenied, Unauthenticated
from consulmesh.policies import Metadata, Peer
from consulmesh.spiffe import SpiffeId
from consulmesh.watch import Change

Json = Mapping[str, Any]
Headers = Callable[[], Mapping[str, str]]

_ANYBODY: Final = "*"
_OF_THE_MESH: Final = ("grpc.health.v1.Health/", "xds.service.orca.v3.OpenRcaService/")
"""What balancers ask for by themselves: open to whoever may call anything here."""
_REMEMBERED: Final = 4096  # decisions
_PATHS: Final = {"PathExact", "PathPrefix", "PathRegex"}
_CONDITIONS: Final = {"Header", "Methods"}
_VALUES: Final = {"Exact", "Prefix", "Suffix", "Contains", "Regex", "Present"}

_log = structlog.get_logger()


class Permission:
    """One of an intention's permissions: what it allows or denies, and to which calls it applies.

    A condition that cannot be judged here makes it apply to no call if it allows, and to every
    call if it denies.
    """

    def __init__(self, definition: Json) -> None:
        self.allows = definition.get("Action") == "allow"
        http = {key: value for key, value in (definition.get("HTTP") or {}).items() if value}
        self._unknown = bool(http.keys() - _PATHS - _CONDITIONS or definition.get("JWT"))
        self._http = http
        self._never = "POST" not in http.get("Methods", ("POST",))  # gRPC calls are all POST
        self._headers = http.get("Header") or ()
        try:
            self._regex = re.compile(http["PathRegex"]) if "PathRegex" in http else None
            self._unknown |= any(_unknown_condition(header) for header in self._headers)
        except re.error:
            self._unknown = True

    @property
    def conditional(self) -> bool:
        """Whether it looks at more of a call than its method."""
        return bool(self._headers)

    def applies(self, path: str, headers: Headers) -> bool:
        """Say whether it is about a call of this path ("/package.Service/Method")."""
        if self._unknown:
            return not self.allows
        if self._never or not self._matches(path):
            return False
        return not self._headers or all(_holds(each, headers()) for each in self._headers)

    def _matches(self, path: str) -> bool:
        if self._regex is not None:
            return self._regex.fullmatch(path) is not None
        if "PathExact" in self._http:
            return bool(path == self._http["PathExact"])
        return path.startswith(self._http.get("PathPrefix", "/"))


class Intentions:
    """The intentions about one service, those that go before others first.

    Immutable, but for the decisions that were made already.
    """

    def __init__(self, listed: Iterable[Json] = ()) -> None:
        self._rules: list[tuple[str, bool, tuple[Permission, ...]]] = [
            (
                each["SourceName"],
                each.get("Action") == "allow",
                tuple(map(Permission, each.get("Permissions") or ())),
            )
            for each in listed
            if not each.get("SourcePeer")
        ]
        self._decided: dict[tuple[str, str], bool] = {}

    def allow(self, source: str, path: str, headers: Headers) -> bool:
        """Say whether a service may make a call of this path ("/package.Service/Method")."""
        known = self._decided.get((source, path))
        if known is not None:
            return known
        permissions, allowed = self._of(source)
        decided = next((each for each in permissions if each.applies(path, headers)), None)
        answer = decided.allows if decided else allowed
        if not any(each.conditional for each in permissions):
            if len(self._decided) >= _REMEMBERED:
                self._decided.clear()  # a peer may ask for methods that nobody has
            self._decided[source, path] = answer
        return answer

    def allow_anything(self, source: str) -> bool:
        """Say whether a service may make any call at all."""
        permissions, allowed = self._of(source)
        return allowed or any(each.allows for each in permissions)

    def _of(self, source: str) -> tuple[tuple[Permission, ...], bool]:
        """The permissions of a source, and what holds where none applies."""
        for name, allowed, permissions in self._rules:
            if name in {source, _ANYBODY}:
                return permissions, allowed and not permissions
        return (), False


class IntentionAuthorization:
    """Decides by the certificate of a peer and the intentions about a service.

    `domains` gives the trust domains, none while they are not known. State: the intentions.
    """

    def __init__(self, service: str, domains: Callable[[], Sequence[str]]) -> None:
        self._service = service
        self._domains = domains
        self._intentions: Intentions | None = None

    def __repr__(self) -> str:
        return f"<IntentionAuthorization of {self._service}>"

    def changed(self, change: Change) -> None:
        """Take Consul's list (/v1/connect/intentions/match); from a watch."""
        self._intentions = Intentions((change.data or {}).get(self._service) or ())
        _log.info("intentions", service=self._service)

    def identify(self, peer: Peer) -> str:
        """Returns the service of a peer's certificate, which the transport has verified, or ""."""
        ids = peer.auth_context().get("peer_spiffe_id") or ()
        try:
            found = SpiffeId.parse(ids[0].decode()) if len(ids) == 1 else None
        except ValueError:
            return ""
        return found.service if found is not None and found.domain in self._domains() else ""

    def authorize(self, method: str, caller: str, _call: ContextSource, peer: Peer) -> None:
        """Returns, or raises Unauthenticated or PermissionDenied."""
        if not caller:
            raise Unauthenticated("The peer shows no service of this mesh.", reason="NO_IDENTITY")
        intentions = self._intentions
        if intentions is None:
            raise PermissionDenied("It is not known yet who may call.", reason="INTENTIONS_UNKNOWN")
        if method.startswith(_OF_THE_MESH):
            allowed = intentions.allow_anything(caller)
        else:
            allowed = intentions.allow(caller, f"/{method}", lambda: _headers(peer))
        if not allowed:
            raise PermissionDenied(
                f"{caller} may not call {self._service} like this.", reason="INTENTION_DENIED"
            )


def _headers(peer: Peer) -> Mapping[str, str]:
    """The headers of a call; one that comes several times is one list (RFC 9110, 5.3)."""
    pairs: Metadata = peer.invocation_metadata() or ()
    headers: dict[str, str] = {}
    for key, value in pairs:
        if isinstance(value, str):
            headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers


def _unknown_condition(header: Json) -> bool:
    """Whether there is something in a header's condition that is not judged here."""
    said = {key for key, value in header.items() if value} - {"Name", "Invert", "IgnoreCase"}
    if "Regex" in said:
        re.compile(header["Regex"])
    return len(said) != 1 or not said <= _VALUES or bool(header.get("IgnoreCase"))


def _holds(header: Json, headers: Mapping[str, str]) -> bool:
    value = headers.get(header["Name"].lower())
    return (value is not None and _is_as_said(header, value)) != bool(header.get("Invert"))


def _is_as_said(header: Json, value: str) -> bool:
    if header.get("Exact"):
        return bool(value == header["Exact"])
    if header.get("Prefix"):
        return value.startswith(header["Prefix"])
    if header.get("Suffix"):
        return value.endswith(header["Suffix"])
    if header.get("Contains"):
        return header["Contains"] in value
    if header.get("Regex"):
        return re.fullmatch(header["Regex"], value) is not None
    return True  # Present
