"""Tokens that must not be taken: what is wrong with each, by name."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.oidc_provider import OidcProvider, SigningKey, b64

HOUR = 3600
ALGORITHMS = frozenset({"ES256", "RS256"})


class Attacker:
    """Knows all that is public, has keys of its own, and may make the issuer sign nonsense."""

    def __init__(self, provider: OidcProvider, evil: OidcProvider) -> None:
        self.provider = provider
        self.evil = evil
        self.key = provider.keys[0]
        self.own = evil.keys[0]
        self.removed = SigningKey.made("ES256")

    def signed(
        self, claims: str | None = None, key: SigningKey | None = None, **header: Any
    ) -> str:
        """Claims as they stand, by the issuer's key or another one."""
        key = key or self.key
        head = {"typ": "at+jwt", "kid": self.key.kid, **header}
        given = self.claims() if claims is None else claims
        token: str = jwt.api_jws.encode(
            given.encode(), key.private, algorithm=key.algorithm, headers=head
        )
        return token

    def claims(self, **other: Any) -> str:
        """The claims that the issuer would make, but for some; None leaves one out."""
        now = int(time.time())
        usual = {
            "iss": self.provider.issuer,
            "aud": self.provider.audience,
            "sub": "ann",
            "roles": ["customer"],
            "iat": now,
            "exp": now + HOUR,
        }
        return json.dumps({k: v for k, v in (usual | other).items() if v is not None})

    def parts(self) -> list[str]:
        """A good token in its parts."""
        return self.signed().split(".")

    def unsigned(self, alg: str, tail: str = "") -> str:
        """A token that says of itself that it needs no signature."""
        head = b64({"alg": alg, "typ": "at+jwt", "kid": self.key.kid})
        return f"{head}.{b64(self.claims().encode())}.{tail}"

    def shared(self, secret: bytes, key: SigningKey) -> str:
        """A token by HS256 with something public as the secret."""
        head = b64({"alg": "HS256", "typ": "at+jwt", "kid": key.kid})
        signed = f"{head}.{b64(self.claims().encode())}"
        return f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def flipped(self, part: int) -> list[str]:
        """A good token with one bit of a part turned, here and there."""
        parts = self.parts()
        raw = base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4))
        return [
            ".".join([*parts[:part], b64(_turned(raw, at)), *parts[part + 1 :]])
            for at in range(0, len(raw), 5)
        ]


def _turned(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :]


def _public(key: SigningKey, encoding: Encoding) -> bytes:
    raw: bytes = key.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return raw


def _swapped(attacker: Attacker) -> list[str]:
    keys = attacker.provider.keys
    secrets = [_public(key, form) for key in keys for form in (Encoding.PEM, Encoding.DER)]
    secrets += [json.dumps(key.jwk()).encode() for key in keys]
    return [attacker.shared(secret, key) for secret in [*secrets, b""] for key in keys]


def _doubled(attacker: Attacker) -> list[str]:
    claims = attacker.claims()
    return [
        attacker.signed(claims[:-1] + ', "sub": "root"}'),
        attacker.signed('{"sub": "root", ' + claims[1:]),
        attacker.signed(claims[:-1] + ', "roles": ["customer", "operator"]}'),
        attacker.signed(claims[:-1] + ', "nested": {"a": 1, "a": 2}}'),
    ]


def _brought(attacker: Attacker) -> list[str]:
    """Signed by a key that the token itself names or brings along."""
    url = f"{attacker.evil.issuer}/jwks"
    jwk = attacker.own.jwk()
    headers: list[dict[str, Any]] = [
        {"jku": url},
        {"x5u": url},
        {"jwk": jwk},
        {"jwk": {**jwk, "kid": attacker.key.kid}},
        {"x5c": [base64.b64encode(_public(attacker.own, Encoding.DER)).decode()]},
    ]
    return [
        attacker.signed(key=attacker.own, kid=kid, **header)
        for header in headers
        for kid in (attacker.key.kid, attacker.own.kid)
    ]


def _claims(**other: Any) -> Callable[[Attacker], list[str]]:
    return lambda attacker: [attacker.signed(attacker.claims(**other))]


def _after(seconds: float) -> int:
    return int(time.time() + seconds)


ATTACKS: Mapping[str, Callable[[Attacker], list[str]]] = {
    "expired": _claims(exp=_after(-HOUR)),
    "not yet valid": _claims(nbf=_after(HOUR)),
    "issued in the future": _claims(iat=_after(HOUR)),
    "never expires": _claims(exp=None),
    "without issuer": _claims(iss=None),
    "another issuer": _claims(iss="https://id.example"),
    "the issuer with a slash more": lambda attacker: [
        attacker.signed(attacker.claims(iss=f"{attacker.provider.issuer}/"))
    ],
    "another audience": _claims(aud="other"),
    "audiences without ours": _claims(aud=["other", "flightmesh2"]),
    "without audience": _claims(aud=None),
    "without subject": _claims(sub=None),
    "subject is a number": _claims(sub=7),
    "subject is a list": _claims(sub=["ann"]),
    "subject is empty": _claims(sub=""),
    "roles are text": _claims(roles="customer"),
    "roles are a map": _claims(roles={"customer": True}),
    "roles are numbers": _claims(roles=["customer", 1]),
    "a claim twice": _doubled,
    "claims are a list": lambda attacker: [attacker.signed("[]")],
    "claims are no JSON": lambda attacker: [attacker.signed("{")],
    "no algorithm": lambda attacker: [
        attacker.unsigned(alg, tail)
        for alg in ("none", "None", "NONE", "nOnE", "")
        for tail in ("", attacker.parts()[2])
    ],
    "public keys as a shared secret": _swapped,
    "an algorithm that is not configured": lambda attacker: [
        attacker.signed(key=SigningKey.made("ES384"))
    ],
    "the other key's algorithm": lambda attacker: [
        attacker.signed(key=attacker.provider.keys[1]),
        attacker.signed(kid=attacker.provider.keys[1].kid),
    ],
    "signature stripped": lambda attacker: [
        ".".join([*attacker.parts()[:2], ""]),
        ".".join(attacker.parts()[:2]),
        attacker.signed()[:-4],
    ],
    "signature of another token": lambda attacker: [
        ".".join([*attacker.parts()[:2], attacker.signed(attacker.claims(sub="bo")).split(".")[2]])
    ],
    "a bit of the header": lambda attacker: attacker.flipped(0),
    "a bit of the claims": lambda attacker: attacker.flipped(1),
    "a bit of the signature": lambda attacker: attacker.flipped(2),
    "a foreign key": lambda attacker: [attacker.signed(key=attacker.own, kid=attacker.own.kid)],
    "a foreign key under our key's id": lambda attacker: [attacker.signed(key=attacker.own)],
    "a key that was removed": lambda attacker: [
        attacker.signed(key=attacker.removed, kid=attacker.removed.kid)
    ],
    "a key in the token": _brought,
    "key ids that are paths and queries": lambda attacker: [
        attacker.signed(kid=kid) for kid in ("../../etc/passwd", "' OR 1=1 --", "", "\u0000")
    ],
    "critical extensions": lambda attacker: [
        attacker.signed(crit=["exp"]),
        attacker.signed(crit=["x"], x=1),
        attacker.signed(crit=[]),
    ],
    "an ID token": lambda attacker: [attacker.signed(typ="JWT"), attacker.signed(typ="")],
    "a header twice": lambda attacker: [
        ".".join(
            [
                b64(b'{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"%s"}' % kid),
                *attacker.parts()[1:],
            ]
        )
        for kid in [attacker.key.kid.encode()]
    ],
    "too long": lambda attacker: [attacker.signed(attacker.claims(padding="a" * 4096))],
    "nothing like it": lambda _: ["a", "a.b", "a.b.c", "...", "e30.e30.", "a.b.c.d.e"],
}
