from __future__ import annotations

import base64
import hmac
import json
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consulmesh.errors import Unauthenticated
from consulmesh.keys import KeyFile
from consulmesh.local_issuer import LocalIssuer
from consulmesh.users import TokenVerifier, User

ISSUER = "https://issuer.example"
AUDIENCE = "mesh"
HOUR = timedelta(hours=1)

Claims = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the issuer keeps its keys."""
    return tmp_path_factory.mktemp("keys") / "issuer"


@pytest.fixture(scope="module")
def issuer(folder: Path) -> LocalIssuer:
    """Who signs."""
    return LocalIssuer(folder, ISSUER, AUDIENCE)


@pytest.fixture(scope="module")
def verifier(folder: Path, issuer: LocalIssuer) -> TokenVerifier:  # noqa: ARG001 - makes the keys
    """Who verifies, by the file of public keys alone."""
    return TokenVerifier(ISSUER, AUDIENCE, KeyFile(folder / "jwks.json"))


@pytest.fixture(scope="module")
def forge(issuer: LocalIssuer) -> Callable[..., str]:
    """Signs with the right key what the issuer never would."""

    def signed(
        claims: Claims, *, key: Any = None, algorithm: str = "ES256", **headers: str | None
    ) -> str:
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 60}
        chosen = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        header = {"typ": "at+jwt", "kid": issuer._kid, **headers}
        return jwt.api_jws.encode(  # one that looks at no claim
            json.dumps(chosen).encode(),
            issuer._key if key is None else key,
            algorithm=algorithm,
            headers={name: value for name, value in header.items() if value is not None},
        )

    return signed


def b64(document: object) -> str:
    """A part of a token."""
    raw = json.dumps(document).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def refused(verifier: TokenVerifier, token: str | None) -> tuple[str, str]:
    """What is said of a token that is not taken."""
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    return str(caught.value), caught.value.reason


INVALID = ("The bearer token is not valid.", "TOKEN_INVALID")


async def test_a_token_tells_its_user(issuer: LocalIssuer, verifier: TokenVerifier) -> None:
    """Issuer, subject and roles come out as they were put in."""
    token = issuer.token("ann", ["customer", "operator"], HOUR)

    roles = frozenset({"customer", "operator"})
    assert await verifier.verify(token) == User(issuer=ISSUER, subject="ann", roles=roles)


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_is_missing_not_invalid(verifier: TokenVerifier, token: str | None) -> None:
    """Who sends nothing is told that something is needed."""
    assert await refused(verifier, token) == ("A bearer token is required.", "TOKEN_MISSING")


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"exp": int(time.time()) - 60}, id="expired"),
        pytest.param({"nbf": int(time.time()) + 3600}, id="not yet valid"),
        pytest.param({"iat": int(time.time()) + 3600}, id="issued in the future"),
        pytest.param({"iss": "https://other.example"}, id="another issuer"),
        pytest.param({"iss": [ISSUER]}, id="issuer is a list"),
        pytest.param({"aud": "other"}, id="another audience"),
        pytest.param({"aud": []}, id="no audience"),
        pytest.param({"exp": None}, id="never expires"),
        pytest.param({"iss": None}, id="without issuer"),
        pytest.param({"aud": None}, id="without audience"),
        pytest.param({"sub": None}, id="without subject"),
        pytest.param({"sub": ""}, id="empty subject"),
        pytest.param({"exp": "tomorrow"}, id="expiry is text"),
        pytest.param({"exp": 1e400}, id="expiry is infinite"),
        pytest.param({"roles": "operator"}, id="roles are text"),
        pytest.param({"roles": {"operator": True}}, id="roles are a map"),
        pytest.param({"roles": [1]}, id="roles are numbers"),
    ],
)
async def test_well_signed_claims_must_still_be_right(
    verifier: TokenVerifier, forge: Callable[..., str], claims: Claims
) -> None:
    """Whatever is wrong with the claims, the text is the same."""
    assert await refused(verifier, forge(claims)) == INVALID


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"typ": "JWT"}, id="not an access token"),
        pytest.param({"typ": None}, id="no type"),
        pytest.param({"kid": "foreign"}, id="foreign key id"),
        pytest.param({"kid": None}, id="no key id"),
        pytest.param({"kid": "../../etc/passwd"}, id="key id is a path"),
    ],
)
async def test_headers_must_be_right(
    verifier: TokenVerifier, forge: Callable[..., str], headers: dict[str, str | None]
) -> None:
    """Type and key id are checked before any signature."""
    assert await refused(verifier, forge({}, **headers)) == INVALID


async def test_a_foreign_key_under_our_key_id_is_refused(
    verifier: TokenVerifier, forge: Callable[..., str]
) -> None:
    """The signature has to be that of the key which the id names."""
    foreign = ec.generate_private_key(ec.SECP256R1())

    assert await refused(verifier, forge({}, key=foreign)) == INVALID


async def test_an_unsigned_token_is_refused(verifier: TokenVerifier, issuer: LocalIssuer) -> None:
    """`alg: none` is refused in every spelling, with and without a signature behind it."""
    _, payload, signature = issuer.token("ann", [], HOUR).split(".")
    tokens = [
        f"{b64({'alg': alg, 'typ': 'at+jwt', 'kid': issuer._kid})}.{payload}.{tail}"
        for alg in ("none", "None", "NONE", "nOnE")
        for tail in ("", signature)
    ]

    assert {await refused(verifier, token) for token in tokens} == {INVALID}


async def test_the_public_key_is_no_shared_secret(
    verifier: TokenVerifier, folder: Path, forge: Callable[..., str]
) -> None:
    """HS256 over the published key (the algorithm swap) is refused."""
    published = (folder / "jwks.json").read_bytes()
    _, payload, _ = forge({}).split(".")
    kid = json.loads(published)["keys"][0]["kid"]
    signed = f"{b64({'alg': 'HS256', 'typ': 'at+jwt', 'kid': kid})}.{payload}"
    mac = hmac.digest(published, signed.encode(), "sha256")
    signature = base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    assert await refused(verifier, f"{signed}.{signature}") == INVALID


async def test_another_curve_algorithm_is_refused(
    verifier: TokenVerifier, forge: Callable[..., str]
) -> None:
    """The algorithm is ours to choose, not the token's."""
    other = ec.generate_private_key(ec.SECP384R1())

    assert await refused(verifier, forge({}, key=other, algorithm="ES384")) == INVALID


async def test_a_stripped_signature_is_refused(
    verifier: TokenVerifier, issuer: LocalIssuer
) -> None:
    """Neither an empty, a cut nor a missing signature is taken."""
    token = issuer.token("ann", [], HOUR)
    head, payload, signature = token.split(".")
    tokens = [f"{head}.{payload}.", f"{head}.{payload}", f"{head}.{payload}.{signature[:-4]}"]

    assert {await refused(verifier, each) for each in tokens} == {INVALID}


async def test_a_key_in_the_token_is_not_believed(
    verifier: TokenVerifier, forge: Callable[..., str]
) -> None:
    """`jwk` and `jku` in the header (RFC 8725, 3.10) do not bring keys in."""
    foreign = ec.generate_private_key(ec.SECP256R1())
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(foreign.public_key(), as_dict=True)
    token = forge({}, key=foreign, kid="theirs", jwk=jwk, jku="https://evil.example/jwks.json")

    assert await refused(verifier, token) == INVALID


async def test_critical_extensions_are_refused(
    verifier: TokenVerifier, forge: Callable[..., str]
) -> None:
    """RFC 7515: what must be understood and is not makes the token invalid."""
    token = forge({}, crit=["b64"], b64=False)

    assert await refused(verifier, token) == INVALID


async def test_every_flipped_bit_is_noticed(verifier: TokenVerifier, issuer: LocalIssuer) -> None:
    """No change to any decoded byte of header, claims or signature leaves a token valid."""
    parts = issuer.token("ann", ["customer"], HOUR).split(".")
    taken: list[tuple[int, int]] = []
    for which, part in enumerate(parts):
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        for at in range(0, len(raw), 3):
            flipped = raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :]
            changed = base64.urlsafe_b64encode(flipped).rstrip(b"=").decode()
            token = ".".join([*parts[:which], changed, *parts[which + 1 :]])
            if await refused(verifier, token) != INVALID:
                taken.append((which, at))

    assert not taken


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1) | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
async def test_no_garbage_is_anything_but_invalid(verifier: TokenVerifier, token: str) -> None:
    """Whatever is sent, the answer is the constant one."""
    if token:
        assert await refused(verifier, token) == INVALID


@pytest.mark.parametrize(
    "document", ["[" * 3000, '{"a":' * 700, '{"kid": {}}', "7", "null", '{"alg": ["ES256"]}']
)
async def test_headers_that_are_hard_to_read_are_invalid(
    verifier: TokenVerifier, document: str
) -> None:
    """Deep nesting and odd types end as everything else does."""
    head = base64.urlsafe_b64encode(document.encode()).rstrip(b"=").decode()

    assert await refused(verifier, f"{head}.e30.AAAA") == INVALID


async def test_a_rotated_key_is_picked_up_and_the_old_one_dropped(tmp_path: Path) -> None:
    """Without a restart, from the moment that the file is replaced."""
    old = LocalIssuer(tmp_path / "old", ISSUER, AUDIENCE)
    new = LocalIssuer(tmp_path / "new", ISSUER, AUDIENCE)
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes((tmp_path / "old/jwks.json").read_bytes())
    verifier = TokenVerifier(ISSUER, AUDIENCE, KeyFile(jwks))
    before = old.token("ann", [], HOUR)
    await verifier.verify(before)

    (tmp_path / "new/jwks.json").replace(jwks)

    assert (await verifier.verify(new.token("bo", [], HOUR))).subject == "bo"
    assert await refused(verifier, before) == INVALID


async def test_a_token_that_comes_again_costs_no_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as its key is there and its time is not over; a new key set has it looked at anew."""
    issuer = LocalIssuer(tmp_path, ISSUER, AUDIENCE)
    verifier = TokenVerifier(ISSUER, AUDIENCE, KeyFile(tmp_path / "jwks.json"))
    read: list[str] = []
    claims = verifier._claims

    def counted(token: str, key: jwt.PyJWK) -> dict[str, Any]:
        read.append(token)
        return claims(token, key)

    monkeypatch.setattr(verifier, "_claims", counted)
    ann, bob = (issuer.token(name, ["customer"]) for name in ("ann", "bob"))
    for _ in range(3):
        assert (await verifier.verify(ann)).subject == "ann"
        assert (await verifier.verify(bob)).subject == "bob"
    once = list(read)
    monkeypatch.setattr("consulmesh.users.time.time", lambda: time.time_ns() / 1e9 + 7200)
    await verifier.verify(ann)  # by PyJWT's clock it is good still
    monkeypatch.undo()

    assert once == [ann, bob]
    assert read == [ann, bob, ann]


async def test_no_more_tokens_are_remembered_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those seen last are; refused ones never."""
    monkeypatch.setattr("consulmesh.users._REMEMBERED", 3)
    issuer = LocalIssuer(tmp_path, ISSUER, AUDIENCE)
    verifier = TokenVerifier(ISSUER, AUDIENCE, KeyFile(tmp_path / "jwks.json"))
    for number in range(10):
        await verifier.verify(issuer.token(f"user-{number}", []))
    with pytest.raises(Unauthenticated):
        await verifier.verify("no.token.atall")

    assert [each.user.subject for each in verifier._verified.values()] == [
        "user-7",
        "user-8",
        "user-9",
    ]


async def test_an_unreadable_key_file_keeps_the_last_good_keys(tmp_path: Path) -> None:
    """A half-written file does not lock everybody out."""
    issuer = LocalIssuer(tmp_path, ISSUER, AUDIENCE)
    verifier = TokenVerifier(ISSUER, AUDIENCE, KeyFile(tmp_path / "jwks.json"))
    token = issuer.token("ann", [], HOUR)
    await verifier.verify(token)

    (tmp_path / "jwks.json").write_text('{"keys": [{"kty": "EC", "crv": "P-256", "kid": "x"}')
    half = await verifier.verify(token)
    (tmp_path / "jwks.json").unlink()
    gone = await verifier.verify(token)

    assert half == gone == User(issuer=ISSUER, subject="ann")


async def test_without_any_key_nobody_is_believed(tmp_path: Path) -> None:
    """A missing file is no reason to trust, and none to crash."""
    issuer = LocalIssuer(tmp_path / "issuer", ISSUER, AUDIENCE)
    verifier = TokenVerifier(ISSUER, AUDIENCE, KeyFile(tmp_path / "absent.json"))

    assert await refused(verifier, issuer.token("ann", [], HOUR)) == INVALID


async def test_keys_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    """A set with RSA, encryption and nameless keys still gives its usable one."""
    issuer = LocalIssuer(tmp_path, ISSUER, AUDIENCE)
    jwks = json.loads((tmp_path / "jwks.json").read_text())
    (own,) = jwks["keys"]
    others = [{"kty": "RSA", "kid": "r"}, {**own, "use": "enc", "kid": "e"}, "text", {"kty": "EC"}]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [*others, own]}))
    verifier = TokenVerifier(ISSUER, AUDIENCE, KeyFile(tmp_path / "jwks.json"))

    assert (await verifier.verify(issuer.token("ann", [], HOUR))).subject == "ann"


async def test_the_environment_names_issuer_audience_and_keys(tmp_path: Path) -> None:
    """A verifier by environment takes the tokens of the issuer that it names."""
    issuer = LocalIssuer(tmp_path / "keys", "https://i.example", "a")
    verifier = TokenVerifier.from_env(
        {
            "MESH_ISSUER": "https://i.example",
            "MESH_AUDIENCE": "a",
            "MESH_JWKS": str(tmp_path / "keys/jwks.json"),
        },
        tmp_path,
    )

    assert (await verifier.verify(issuer.token("ann", [], HOUR))).subject == "ann"


async def test_the_local_issuer_is_found_by_default(tmp_path: Path) -> None:
    """Without variables, a verifier knows the issuer below the state folder."""
    token = LocalIssuer(tmp_path / "issuer").token("ann", ["customer"])

    assert (await TokenVerifier.from_env({}, tmp_path).verify(token)).roles == {"customer"}


def test_keys_are_the_owners_alone(tmp_path: Path) -> None:
    """No other user of the machine reads the key, and no temporary file is left behind."""
    LocalIssuer(tmp_path / "issuer")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "issuer").iterdir()
    }

    assert modes == {".lock": 0o600, "key.pem": 0o600, "jwks.json": 0o600}
    assert stat.S_IMODE((tmp_path / "issuer").stat().st_mode) == 0o700


def kid_of(folder: str) -> str:
    """Runs in a process of its own."""
    return LocalIssuer(Path(folder))._kid


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """Whoever comes first makes the key; it is the one that is published."""
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        kids = set(pool.map(kid_of, [os.fspath(tmp_path / "issuer")] * 6))

    published = json.loads((tmp_path / "issuer/jwks.json").read_text())
    assert kids == {published["keys"][0]["kid"]}
