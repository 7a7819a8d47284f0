"""End users: bearer tokens (JWT) verified against their issuer's public keys.

Tokens follow RFC 9068 (`typ` is `at+jwt`), as far as the configuration does not say otherwise;
verification follows RFC 8725. The verifier says the same text for whatever is wrong with a token.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import jwt
from jwt import PyJWK

from consulmesh.config import ConfigError, Environment, duration
from consulmesh.errors import Unauthenticated
from consulmesh.keys import ALGORITHMS, DEFAULT_ALGORITHMS, KeyFile, KeySource
from consulmesh.local_issuer import DEFAULT_AUDIENCE, DEFAULT_ISSUER, TYPE
from consulmesh.oidc import DEFAULT_PACE, OidcKeys, issuer_url

_TYPES: Final = frozenset({TYPE})
_NO_TYPE: Final = "absent"  # how a setting names the type of a token that has none
_ROLES: Final = ("roles",)
_REQUIRED: Final = ["exp", "iat", "iss", "aud", "sub"]
_CLOCK_SKEW: Final = timedelta(seconds=5)
_LONGEST_TOKEN: Final = 4096
_REMEMBERED: Final = 4096  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who is behind a call: a subject of an issuer of tokens."""

    issuer: str
    subject: str
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """What was found of a token: it holds as long as its key does, between two moments."""

    user: User
    signed_by: tuple[str, str]
    key: PyJWK
    begins: int
    ends: int


class TokenVerifier:
    """Tells the user of a token.

    Issuer, audience, algorithms and types are what we expect, whatever a token says of itself;
    `types` are in lower case, "" is that of a token without one. `roles` is the path of the claim
    that names the user's roles.

    A token that comes again is not verified again while its key is the issuer's and its time is not
    over: a signature costs more than all else about a small call. State: what was found of the
    tokens seen last, by their digests.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: KeySource,
        *,
        algorithms: AbstractSet[str] = DEFAULT_ALGORITHMS,
        types: AbstractSet[str] = _TYPES,
        roles: Sequence[str] = _ROLES,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._algorithms = sorted(algorithms)
        self._types = types
        self._roles = roles
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    @classmethod
    def from_env(cls, environ: Mapping[str, str], state_dir: Path) -> Self:
        """A verifier by the environment (docs/operations.md); raises ConfigError."""
        env = Environment(environ)
        algorithms = env.read("MESH_TOKEN_ALGORITHMS", _algorithms, DEFAULT_ALGORITHMS)
        issuer, keys = _source(env, state_dir, algorithms)
        return cls(
            issuer,
            env.read("MESH_AUDIENCE", str, DEFAULT_AUDIENCE),
            keys,
            algorithms=algorithms,
            types=env.read("MESH_TOKEN_TYPES", _types, _TYPES),
            roles=env.read("MESH_ROLES_CLAIM", _path, _ROLES),
        )

    async def run(self) -> None:
        """Keep the issuer's keys fresh: a background job of the process."""
        await self._keys.run()

    async def verify(self, token: str | None) -> User:
        """The token's user; raises Unauthenticated (TOKEN_MISSING, TOKEN_INVALID).

        Waits a moment where the issuer has to be asked for the key. Raises Unavailable as long as
        the issuer has never shown its keys.
        """
        if not token:
            raise Unauthenticated("A bearer token is required.", reason="TOKEN_MISSING")
        try:
            return await self._user(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Unauthenticated(
                "The bearer token is not valid.", reason="TOKEN_INVALID"
            ) from None

    async def _user(self, token: str) -> User:
        if len(token) > _LONGEST_TOKEN:
            raise jwt.InvalidTokenError("too long")
        digest = sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and await self._holds(known):
            self._verified.move_to_end(digest)
            return known.user
        signed_by = self._signed_by(token)
        key = await self._keys.find(*signed_by)
        if key is None:
            raise jwt.InvalidTokenError("signed by a key that we do not know")
        claims = self._claims(token, key)
        if not claims["sub"]:
            raise jwt.InvalidTokenError("nobody's")
        user = User(
            issuer=claims["iss"], subject=claims["sub"], roles=_roles_in(claims, self._roles)
        )
        self._verified[digest] = _Verified(
            user=user,
            signed_by=signed_by,
            key=key,
            begins=max(int(claims["iat"]), int(claims.get("nbf", 0))),
            ends=int(claims["exp"]),
        )
        if len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return user

    async def _holds(self, known: _Verified) -> bool:
        """Whether a token that was good is good now: PyJWT would compare the same times."""
        skew = _CLOCK_SKEW.total_seconds()
        if not known.begins - skew <= time.time() < known.ends + skew:
            return False
        return await self._keys.find(*known.signed_by) is known.key

    def _signed_by(self, token: str) -> tuple[str, str]:
        """The id and the algorithm of the key, once all else in the header is as we expect it."""
        header = _object(jwt.utils.base64url_decode(token.partition(".")[0]))
        if str(header.get("typ", "")).lower().removeprefix("application/") not in self._types:
            raise jwt.InvalidTokenError("not an access token")
        kid, algorithm = header.get("kid"), header.get("alg")
        if not isinstance(kid, str) or algorithm not in self._algorithms:
            raise jwt.InvalidTokenError("not signed as we expect it")
        return kid, algorithm

    def _claims(self, token: str, key: PyJWK) -> dict[str, Any]:
        return _READER.decode(
            token,
            key,
            algorithms=self._algorithms,
            issuer=self._issuer,
            audience=self._audience,
            leeway=_CLOCK_SKEW,
            options={"require": _REQUIRED},
        )


class _Reader(jwt.PyJWT):
    """PyJWT, but of a claim that comes twice two readers could believe two different values."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        return _object(decoded["payload"])


_READER: Final = _Reader()


def _object(raw: bytes) -> dict[str, Any]:
    found = json.loads(raw, object_pairs_hook=_unique)
    if not isinstance(found, dict):
        raise jwt.DecodeError("no JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise jwt.DecodeError("a name comes twice")
    return members


def _roles_in(claims: Mapping[str, Any], path: Sequence[str]) -> frozenset[str]:
    found: Any = claims
    for name in path:
        if not isinstance(found, dict):
            raise jwt.InvalidTokenError("roles are not where we expect them")
        if name not in found:
            return frozenset()
        found = found[name]
    if not isinstance(found, list) or not all(isinstance(role, str) for role in found):
        raise jwt.InvalidTokenError("roles are no list of names")
    return frozenset(found)


def _source(
    env: Environment, state_dir: Path, algorithms: AbstractSet[str]
) -> tuple[str, KeySource]:
    """The issuer, and where its keys are: at a provider, or in a file."""
    file = env.read("MESH_JWKS", Path, None)
    named = env.read("MESH_ISSUER", str, None)
    provider = env.read("MESH_OIDC_ISSUER", issuer_url, None)
    if provider is None:
        path = file or state_dir / "issuer" / "jwks.json"
        return named or DEFAULT_ISSUER, KeyFile(path, algorithms)
    if file is not None or named is not None:
        raise ConfigError("MESH_OIDC_ISSUER: cannot be set together with MESH_JWKS or MESH_ISSUER")
    refresh = env.read("MESH_OIDC_REFRESH", duration, DEFAULT_PACE.refresh)
    return provider, OidcKeys(provider, algorithms, replace(DEFAULT_PACE, refresh=refresh))


def _algorithms(text: str) -> frozenset[str]:
    given = frozenset(part.strip() for part in text.split(","))
    if unknown := given - ALGORITHMS.keys():
        raise ValueError(f"{sorted(unknown)} are none of {', '.join(ALGORITHMS)}")
    return given


def _types(text: str) -> frozenset[str]:
    given = frozenset(part.strip().lower() for part in text.split(","))
    return frozenset("" if each == _NO_TYPE else each for each in given)


def _path(text: str) -> tuple[str, ...]:
    """The names of nested claims; a name that is a URI (RFC 7519 §4.2) has dots of its own."""
    path = (text,) if ":" in text else tuple(text.split("."))
    if not all(path):
        raise ValueError(f"{text!r} is neither a claim nor a path of claims such as a.b")
    return path
