"""Keys that tokens are signed with: JWK sets (RFC 7517), and the one of a file."""

import json
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import jwt
import structlog
from jwt import PyJWK

ALGORITHMS: Final[Mapping[str, tuple[str, frozenset[str]]]] = MappingProxyType(
    {
        "ES256": ("EC", frozenset({"P-256"})),
        "ES384": ("EC", frozenset({"P-384"})),
        "ES512": ("EC", frozenset({"P-521"})),
        "EdDSA": ("OKP", frozenset({"Ed25519", "Ed448"})),
        **dict.fromkeys(("RS256", "RS384", "RS512"), ("RSA", frozenset[str]())),
        **dict.fromkeys(("PS256", "PS384", "PS512"), ("RSA", frozenset[str]())),
    }
)
"""Every algorithm that a token may be signed by, with the kind of its keys and their curves.
All have a public key: no secret is shared with an issuer, so nobody who verifies can sign."""

DEFAULT_ALGORITHMS: Final = frozenset({"ES256"})

_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})

KeySet = Mapping[tuple[str, str], PyJWK]
"""Keys by id and algorithm: each verifies by that algorithm and by no other."""

_log = structlog.get_logger()


class KeySource(Protocol):
    """Where the keys of an issuer come from."""

    async def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """The key; None where the issuer has no such one. Raises Unavailable where nobody knows."""

    async def run(self) -> None:
        """What has to be done in the background for that, if anything."""


class KeyFile:
    """The keys of a JWK set in a file.

    It is read again when it changes; while it cannot be read the last good keys count.
    """

    def __init__(self, path: Path | str, algorithms: AbstractSet[str] = DEFAULT_ALGORITHMS) -> None:
        self._path = Path(path)
        self._algorithms = algorithms
        self._seen: tuple[int, int, int] | None = None
        self._keys: KeySet = {}

    async def find(self, kid: str, algorithm: str) -> PyJWK | None:
        """The key, at once. A file that was never there has none."""
        self._refresh()
        return self._keys.get((kid, algorithm))

    async def run(self) -> None:
        """Nothing: the file is looked at with each token."""

    def _refresh(self) -> None:
        seen = self._identity()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read_keys(self._path.read_bytes(), self._algorithms)
        except (OSError, ValueError) as error:
            _log.warning("jwks_unreadable", path=str(self._path), error=str(error))
        else:
            _log.info("jwks_read", path=str(self._path), keys=names(self._keys))

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_keys(raw: bytes, algorithms: AbstractSet[str]) -> KeySet:
    """The keys of a JWK set for these algorithms; raises ValueError where it is none.

    Keys of another kind, for another use, without an id, too short or broken are passed over
    (RFC 7517 §5). Of a private key the public half counts.
    """
    try:
        document = json.loads(raw)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JWK set")  # noqa: TRY004 - one error for whatever is wrong with it
    found: dict[tuple[str, str], PyJWK] = {}
    for member in document["keys"]:
        if not isinstance(member, dict) or not _signs(member):
            continue
        for algorithm in algorithms:
            if _fits(member, algorithm) and (key := _key(member, algorithm)):
                found.setdefault((member["kid"], algorithm), key)
    return found


def names(keys: KeySet) -> list[str]:
    """The ids of keys."""
    return sorted({kid for kid, _ in keys})


def _signs(member: Mapping[str, Any]) -> bool:
    return isinstance(member.get("kid"), str) and member.get("use", "sig") == "sig"


def _fits(member: Mapping[str, Any], algorithm: str) -> bool:
    """Whether a key is of the algorithm's kind, and not meant for another one."""
    kind, curves = ALGORITHMS[algorithm]
    return (
        member.get("kty") == kind
        and (not curves or member.get("crv") in tuple(curves))
        and member.get("alg", algorithm) == algorithm
    )


def _key(member: Mapping[str, Any], algorithm: str) -> PyJWK | None:
    public = {name: value for name, value in member.items() if name not in _PRIVATE}
    try:
        key = PyJWK(public, algorithm)
        flaw = key.Algorithm.check_key_length(key.key)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        flaw = str(error) or type(error).__name__
    if flaw is not None:
        _log.warning("jwk_unusable", kid=member["kid"], reason=flaw)
        return None
    return key
