"""An issuer of end users' tokens for development."""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from consulmesh.private import private_bytes, write_private

DEFAULT_ISSUER: Final = "https://issuer.flightmesh.local"
DEFAULT_AUDIENCE: Final = "flightmesh"
ALGORITHM: Final = "ES256"
TYPE: Final = "at+jwt"
"""What an access token is called (RFC 9068)."""


class LocalIssuer:
    """An issuer for development: makes its key pair and `jwks.json` in the folder when absent.

    Several processes may do so at once: they agree on one key.
    """

    def __init__(
        self, folder: Path, issuer: str = DEFAULT_ISSUER, audience: str = DEFAULT_AUDIENCE
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder / ".lock"):
            self._key = _private_key(folder / "key.pem")
            self._kid = _publish(folder / "jwks.json", self._key.public_key())

    def token(
        self, subject: str, roles: Iterable[str], lifetime: timedelta = timedelta(hours=1)
    ) -> str:
        """A signed access token."""
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": subject,
            "roles": sorted(roles),
            "iat": now,
            "nbf": now,
            "exp": now + int(lifetime.total_seconds()),
            "jti": uuid.uuid4().hex,
        }
        return jwt.encode(
            claims, self._key, algorithm=ALGORITHM, headers={"kid": self._kid, "typ": TYPE}
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        write_private(path, private_bytes(ec.generate_private_key(ec.SECP256R1())))
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic curve key")  # noqa: TRY004 - the file's fault
    return key


def _publish(path: Path, key: ec.EllipticCurvePublicKey) -> str:
    """Writes the public key's set unless it is there, and returns the key's id."""
    jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    kid = jwt.utils.base64url_encode(_thumbprint(jwk)).decode()
    content = json.dumps({"keys": [{**jwk, "kid": kid, "use": "sig", "alg": ALGORITHM}]}).encode()
    if not path.exists() or path.read_bytes() != content:
        write_private(path, content)
    return kid


def _thumbprint(jwk: Mapping[str, Any]) -> bytes:
    """RFC 7638."""
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    return sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
