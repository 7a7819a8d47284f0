"""End users: bearer tokens (JWT, ES256) verified against a file of public keys, and a local issuer.

Claims follow RFC 9068 (`typ` is `at+jwt`), verification RFC 8725. The verifier says the same text
for whatever is wrong with a token.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import jwt
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from consulmesh.errors import Unauthenticated

_ALGORITHM: Final = "ES256"
_TYPE: Final = "at+jwt"
_REQUIRED: Final = ["exp", "iat", "iss", "aud", "sub"]
_CLOCK_SKEW: Final = timedelta(seconds=5)
_LONGEST_TOKEN: Final = 4096

DEFAULT_ISSUER: Final = "https://issuer.flightmesh.local"
DEFAULT_AUDIENCE: Final = "flightmesh"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who is behind a call: a subject of an issuer of tokens."""

    issuer: str
    subject: str
    roles: frozenset[str] = frozenset()


class TokenVerifier:
    """Tells the user of a token.

    The key file is read again when it changes; while it cannot be read the last good keys count.
    """

    def __init__(self, issuer: str, audience: str, jwks: Path | str) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = _KeyFile(Path(jwks))

    @classmethod
    def from_env(cls, environ: Mapping[str, str], state_dir: Path) -> Self:
        """A verifier by MESH_ISSUER, MESH_AUDIENCE and MESH_JWKS."""
        return cls(
            environ.get("MESH_ISSUER", DEFAULT_ISSUER),
            environ.get("MESH_AUDIENCE", DEFAULT_AUDIENCE),
            environ.get("MESH_JWKS") or state_dir / "issuer" / "jwks.json",
        )

    def verify(self, token: str | None) -> User:
        """The token's user; raises Unauthenticated (TOKEN_MISSING, TOKEN_INVALID)."""
        if not token:
            raise Unauthenticated("A bearer token is required.", reason="TOKEN_MISSING")
        try:
            return self._user(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Unauthenticated(
                "The bearer token is not valid.", reason="TOKEN_INVALID"
            ) from None

    def _user(self, token: str) -> User:
        if len(token) > _LONGEST_TOKEN:
            raise jwt.InvalidTokenError("too long")
        claims = self._claims(token, self._key(jwt.get_unverified_header(token)))
        subject, roles = claims["sub"], claims.get("roles", [])
        if not subject or not isinstance(roles, list) or not all(isinstance(r, str) for r in roles):
            raise jwt.InvalidTokenError("subject or roles are not as we issue them")
        return User(issuer=claims["iss"], subject=subject, roles=frozenset(roles))

    def _key(self, header: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
        # The algorithm is ours to choose, never the token's: decode() gets the one we use.
        if str(header.get("typ", "")).lower().removeprefix("application/") != _TYPE:
            raise jwt.InvalidTokenError("not an access token")
        key = self._keys.get(header.get("kid"))
        if key is None:
            raise jwt.InvalidTokenError("signed by a key that we do not know")
        return key

    def _claims(self, token: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            issuer=self._issuer,
            audience=self._audience,
            leeway=_CLOCK_SKEW,
            options={"require": _REQUIRED},
        )


class _KeyFile:
    """The P-256 keys of a JWKS file (RFC 7517) by their id."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: Mapping[str, ec.EllipticCurvePublicKey] = {}

    def get(self, kid: object) -> ec.EllipticCurvePublicKey | None:
        self._refresh()
        return self._keys.get(kid) if isinstance(kid, str) else None

    def _refresh(self) -> None:
        seen = self._identity()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = _parse(self._path.read_bytes())
        except (OSError, ValueError) as error:
            _log.warning("jwks_unreadable", path=str(self._path), error=str(error))
        else:
            _log.info("jwks_read", path=str(self._path), keys=sorted(self._keys))

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _parse(raw: bytes) -> dict[str, ec.EllipticCurvePublicKey]:
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JWK set")  # noqa: TRY004 - one error for whatever is wrong with it
    usable = (key for key in document["keys"] if isinstance(key, dict) and _usable(key))
    return {key["kid"]: _public(key) for key in usable}


def _usable(key: Mapping[str, Any]) -> bool:
    return (
        key.get("kty") == "EC"
        and key.get("crv") == "P-256"
        and key.get("use", "sig") == "sig"
        and key.get("alg", _ALGORITHM) == _ALGORITHM
        and isinstance(key.get("kid"), str)
    )


def _public(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    try:
        key = ECAlgorithm.from_jwk(dict(jwk))
    except jwt.PyJWTError as error:
        raise ValueError(f"key {jwk['kid']}: {error}") from None
    return key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key


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
            claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._kid, "typ": _TYPE}
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
        fresh = ec.generate_private_key(ec.SECP256R1())
        _write(
            path,
            fresh.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic curve key")  # noqa: TRY004 - the file's fault
    return key


def _publish(path: Path, key: ec.EllipticCurvePublicKey) -> str:
    """Writes the public key's set unless it is there, and returns the key's id."""
    jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    kid = jwt.utils.base64url_encode(_thumbprint(jwk)).decode()
    content = json.dumps({"keys": [{**jwk, "kid": kid, "use": "sig", "alg": _ALGORITHM}]}).encode()
    if not path.exists() or path.read_bytes() != content:
        _write(path, content)
    return kid


def _thumbprint(jwk: Mapping[str, Any]) -> bytes:
    """RFC 7638."""
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    return sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()


def _write(path: Path, content: bytes) -> None:
    """Atomically, for the owner's eyes only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
