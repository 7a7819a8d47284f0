import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from consulmesh import ConfigError
from consulmesh.errors import Unauthenticated, Unavailable
from consulmesh.keys import ALGORITHMS, read_keys
from consulmesh.oidc import OidcKeys, Pace
from consulmesh.users import TokenVerifier, User
from tests.oidc_provider import OidcProvider, SigningKey

# The background looks again only when a test says so, and anybody's token may ask at any time.
PACE = Pace(
    refresh=timedelta(hours=1),
    first_retry=timedelta(milliseconds=10),
    last_retry=timedelta(milliseconds=20),
    gap=timedelta(0),
    patience=timedelta(seconds=1),
    wait=timedelta(seconds=5),
)
SOON = replace(PACE, refresh=timedelta(milliseconds=20))


@pytest.fixture
async def provider() -> AsyncIterator[OidcProvider]:
    """A provider that answers."""
    async with OidcProvider().running() as running:
        yield running


@asynccontextmanager
async def verifying(
    provider: OidcProvider,
    how: Pace | OidcKeys = PACE,
    algorithms: frozenset[str] = frozenset({"ES256"}),
) -> AsyncIterator[TokenVerifier]:
    """A verifier of the provider's tokens, with its background job."""
    keys = OidcKeys(provider.issuer, algorithms, how) if isinstance(how, Pace) else how
    verifier = TokenVerifier(provider.issuer, provider.audience, keys, algorithms=algorithms)
    job = asyncio.create_task(verifier.run())
    try:
        yield verifier
    finally:
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


async def refused(verifier: TokenVerifier, token: str) -> str:
    """Why a token is not taken."""
    with pytest.raises(Unauthenticated) as caught:
        await verifier.verify(token)
    return caught.value.reason


async def until_refused(verifier: TokenVerifier, token: str) -> str:
    """Why a token is not taken any more, once it is not."""
    async with asyncio.timeout(20):
        while True:
            try:
                await verifier.verify(token)
            except Unauthenticated as error:
                return error.reason
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "RS256", "PS256", "EdDSA"])
async def test_a_providers_token_tells_its_user(algorithm: str) -> None:
    """Keys come by discovery; issuer, subject and roles from the token."""
    async with (
        OidcProvider(algorithm).running() as provider,
        verifying(provider, algorithms=frozenset({algorithm})) as verifier,
    ):
        user = await verifier.verify(provider.sign("ann"))

    assert user == User(issuer=provider.issuer, subject="ann", roles=frozenset({"customer"}))


async def test_tokens_cost_the_provider_nothing(provider: OidcProvider) -> None:
    """A hundred tokens of a known key are checked in the process."""
    async with verifying(provider) as verifier:
        users = [await verifier.verify(provider.sign(str(number))) for number in range(100)]

    assert len(users) == 100
    assert provider.asked == {"openid-configuration": 1, "jwks": 1}


async def test_keys_rotate_while_tokens_are_used(provider: OidcProvider) -> None:
    """The first token of a new key is taken, and nobody with an old one is turned away."""
    users: list[str] = []
    async with verifying(provider) as verifier:
        for number in range(5):
            tokens = [provider.sign(f"{number} {key.kid}", key) for key in provider.keys]
            users += [user.subject for user in await asyncio.gather(*map(verifier.verify, tokens))]
            provider.rotate()

    assert len(users) == 1 + 2 + 3 + 4 + 5
    assert provider.asked["jwks"] == 5


async def test_a_removed_key_is_refused_after_the_next_look(provider: OidcProvider) -> None:
    """Nothing needs to name another key for that: the background looks by itself."""
    async with verifying(provider, SOON) as verifier:
        token = provider.sign()
        before = await verifier.verify(token)
        removed = provider.keys[0]
        provider.rotate()
        provider.keys.remove(removed)

        reason = await until_refused(verifier, token)
        after = await verifier.verify(provider.sign("bo"))

    assert (before.subject, reason, after.subject) == ("ann", "TOKEN_INVALID", "bo")


async def test_a_provider_that_takes_its_last_key_back_is_believed(provider: OidcProvider) -> None:
    """A well-formed set without keys is an answer, not an outage; the log says it loudly."""
    async with verifying(provider, SOON) as verifier:
        token = provider.sign()
        await verifier.verify(token)
        with capture_logs() as logs:
            provider.keys.clear()
            reason = await until_refused(verifier, token)

    assert reason == "TOKEN_INVALID"
    assert [(line["log_level"], line["keys"]) for line in logs] == [("warning", [])]


async def test_a_provider_that_is_down_at_the_start_is_waited_for() -> None:
    """Until it comes nobody can tell whether a token is good; then it is, without a restart."""
    provider = OidcProvider()
    token = provider.sign()
    async with verifying(provider) as verifier:
        with pytest.raises(Unavailable) as caught:
            await verifier.verify(token)
        async with provider.running():
            await provider.asked_for_keys(1)
            user = await verifier.verify(token)

    assert caught.value.reason == "TOKEN_KEYS_UNAVAILABLE"
    assert user.subject == "ann"


async def test_what_no_key_could_make_good_is_refused_without_keys() -> None:
    """No token, garbage, and types and algorithms of others are not the provider's fault."""
    provider = OidcProvider()
    other = SigningKey.made("RS256")
    async with verifying(provider) as verifier:
        reasons = [
            await refused(verifier, token) for token in ("", "nonsense", provider.sign(key=other))
        ]

    assert reasons == ["TOKEN_MISSING", "TOKEN_INVALID", "TOKEN_INVALID"]


def last_read(provider: OidcProvider) -> float:
    """When its keys were last read, as the metric has it."""
    labels = {"issuer": provider.issuer}
    return REGISTRY.get_sample_value("oidc_keys_read_timestamp_seconds", labels) or 0.0


async def test_a_provider_that_goes_away_is_not_missed() -> None:
    """The last good keys count, new ones wait for its return; the log says both once.

    Since when they are all there is, is a metric.
    """
    provider = OidcProvider()
    async with verifying(provider, SOON) as verifier:
        async with provider.running():
            before = await verifier.verify(provider.sign("ann"))
        read = last_read(provider)
        old, new = provider.keys[0], provider.rotate()
        with capture_logs() as logs:
            unknown = await refused(verifier, provider.sign("cy", new))
            during = await verifier.verify(provider.sign("bo", old))
            still = last_read(provider)
            async with provider.running():
                await provider.asked_for_keys(provider.asked["jwks"] + 2)
                after = await verifier.verify(provider.sign("cy", new))

    assert [before.subject, during.subject, after.subject] == ["ann", "bo", "cy"]
    assert unknown == "TOKEN_INVALID"
    assert read == still < last_read(provider) <= time.time()
    assert [line["event"] for line in logs] == ["oidc_keys_not_read", "oidc_keys_read"]


async def _hangs(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def _drips(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.01)


async def _floods(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b" " * 65536)
    return response


def _says(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Callable[[web.Request], Any]:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=headers)

    return answer


_FAULTS = [
    pytest.param(_hangs, id="hangs"),
    pytest.param(_drips, id="drips"),
    pytest.param(_floods, id="floods"),
    pytest.param(_says(b"<html>"), id="no JSON"),
    pytest.param(_says(b"[" * 100_000), id="nested"),
    pytest.param(_says(b"\xff\xfe"), id="no text"),
    pytest.param(_says(b"7"), id="a number"),
    pytest.param(_says(b"{}"), id="empty"),
    pytest.param(_says(b'{"keys": 1, "issuer": 1}'), id="other types"),
    pytest.param(_says(b"{}", status=500), id="an error"),
    pytest.param(_says(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), id="packed"),
]


@pytest.mark.parametrize("document", ["openid-configuration", "jwks"])
@pytest.mark.parametrize("fault", _FAULTS)
async def test_no_answer_wipes_good_keys(
    provider: OidcProvider, document: str, fault: Callable[[web.Request], Any]
) -> None:
    """Whatever the provider sends, and however slowly, the last good keys stay, and it recovers."""
    async with verifying(provider) as verifier:
        await verifier.verify(provider.sign("ann"))
        old = provider.keys[0]
        provider.faults[document] = fault
        new = provider.rotate()

        unknown = await refused(verifier, provider.sign("bo", new))
        during = await verifier.verify(provider.sign("ann", old))
        provider.faults.clear()
        asked = provider.asked["jwks"]
        async with asyncio.timeout(20):
            await provider.asked_for_keys(asked + 1)
        after = await verifier.verify(provider.sign("bo", new))

    assert (unknown, during.subject, after.subject) == ("TOKEN_INVALID", "ann", "bo")


@pytest.mark.parametrize(("padding", "expected"), [(200_000, "bo"), (300_000, "nobody")])
async def test_a_set_has_bounded_size(provider: OidcProvider, padding: int, expected: str) -> None:
    """A set of more than 256 KiB is not believed, however good its keys are."""
    async with verifying(provider) as verifier:
        await verifier.verify(provider.sign("ann"))
        new = provider.rotate()
        document = {"keys": [new.jwk()], "padding": "a" * padding}
        provider.faults["jwks"] = _says(json.dumps(document).encode())
        try:
            subject = (await verifier.verify(provider.sign("bo", new))).subject
        except Unauthenticated:
            subject = "nobody"

    assert subject == expected


@pytest.mark.parametrize("document", ["openid-configuration", "jwks"])
async def test_a_redirection_is_not_followed(provider: OidcProvider, document: str) -> None:
    """Where keys come from is what the issuer says over its own connection, and nobody else."""
    async with OidcProvider().running() as evil, verifying(provider) as verifier:
        await verifier.verify(provider.sign("ann"))
        path = {"jwks": "/jwks"}.get(document, f"/.well-known/{document}")
        provider.faults[document] = _says(
            b"", status=302, headers={"Location": f"{evil.issuer}{path}"}
        )
        reason = await refused(verifier, provider.sign("root", evil.keys[0]))
        user = await verifier.verify(provider.sign("ann"))

    assert (reason, user.subject) == ("TOKEN_INVALID", "ann")
    assert not evil.asked


@pytest.mark.parametrize(
    "says",
    [
        pytest.param({"issuer": "https://evil.example"}, id="another issuer"),
        pytest.param({"issuer": None}, id="no issuer"),
        pytest.param({"jwks_uri": None}, id="no keys"),
        pytest.param({"jwks_uri": "http://keys.example/jwks"}, id="keys over http"),
        pytest.param({"jwks_uri": "file:///etc/passwd"}, id="keys in a file"),
        pytest.param({"jwks_uri": "https://a:b@keys.example/jwks"}, id="keys with a password"),
        pytest.param({"jwks_uri": "https://[keys"}, id="no URL"),
    ],
)
async def test_a_configuration_that_cannot_be_believed_is_not(
    provider: OidcProvider, says: dict[str, Any]
) -> None:
    """Who calls itself another issuer, or shows keys that anybody could change, has none."""
    provider.says = says
    async with verifying(provider) as verifier:
        with capture_logs() as logs, pytest.raises(Unavailable):
            await verifier.verify(provider.sign())

    assert provider.asked["jwks"] == 0
    assert logs[0]["event"] == "oidc_keys_not_read"


async def test_a_flood_of_unknown_keys_is_one_question(provider: OidcProvider) -> None:
    """Tokens that wait share one answer; after it the provider has its rest, whoever comes."""
    keys = OidcKeys(provider.issuer, frozenset({"ES256"}), replace(PACE, gap=timedelta(hours=1)))
    strangers = [SigningKey.made("ES256") for _ in range(200)]
    tokens = [provider.sign(key=key) for key in strangers]
    async with verifying(provider, keys) as verifier:
        await verifier.verify(provider.sign())
        keys._paused_until = -math.inf  # it has rested
        first = await asyncio.gather(*(refused(verifier, token) for token in tokens))
        asked = provider.asked["jwks"]
        second = await asyncio.gather(*(refused(verifier, token) for token in tokens))
        user = await verifier.verify(provider.sign("bo"))

    assert set(first) == set(second) == {"TOKEN_INVALID"}
    assert asked == provider.asked["jwks"] == 2
    assert user.subject == "bo"


async def test_a_hanging_provider_holds_a_token_up_for_a_moment_only(
    provider: OidcProvider,
) -> None:
    """The wait for an unknown key ends before the question does."""
    pace = replace(PACE, wait=timedelta(milliseconds=50), patience=timedelta(hours=1))
    async with verifying(provider, pace) as verifier:
        await verifier.verify(provider.sign())
        provider.faults["jwks"] = _hangs
        async with asyncio.timeout(20):
            reason = await refused(verifier, provider.sign(key=SigningKey.made("ES256")))
            user = await verifier.verify(provider.sign("bo"))

    assert (reason, user.subject) == ("TOKEN_INVALID", "bo")


async def test_a_key_verifies_by_its_own_algorithm_only() -> None:
    """What an RSA key is meant for (RS256) is not what the same key signs otherwise (PS256)."""
    both = frozenset({"RS256", "PS256", "ES256"})
    async with OidcProvider("RS256").running() as provider:
        own = provider.keys[0]
        async with verifying(provider, algorithms=both) as verifier:
            taken = await verifier.verify(provider.sign(key=own))
            swapped = replace(own, algorithm="PS256")
            reason = await refused(verifier, provider.sign(key=swapped))

    assert (taken.subject, reason) == ("ann", "TOKEN_INVALID")


def test_a_set_gives_what_the_algorithms_can_use() -> None:
    """Secrets, keys for encryption, short, broken and unmeant ones are passed over."""
    point, rs = SigningKey.made("ES256").jwk(), SigningKey.made("RS256").jwk()
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - on purpose
    unbound = {name: value for name, value in rs.items() if name != "alg"}
    members: list[Any] = [
        {**point, "kid": "good"},
        {**unbound, "kid": "any of RSA"},
        {**point, "kid": "good", "x": "AAAA"},  # a second one of the same name
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "swap", "alg": "RS256"},
        {**point, "kid": "mismatch", "alg": "RS256"},
        {**point, "kid": "encrypts", "use": "enc"},
        {**point, "kid": ["list"]},
        {**point, "kid": "no point", "y": point["x"]},
        {**point, "kid": "numbers", "x": 5},
        {**rs, "kid": "no modulus", "n": None},
        {**of_rsa(short), "kid": "short"},
        "text",
        None,
    ]
    found = read_keys(
        json.dumps({"keys": members}).encode(), frozenset({"ES256", "RS256", "PS256"})
    )

    assert found.keys() == {("good", "ES256"), ("any of RSA", "RS256"), ("any of RSA", "PS256")}


def of_rsa(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    """The JWK of an RSA key."""
    return SigningKey(kid="", algorithm="RS256", private=key).jwk()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("AQAB"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=3,
)
_MEMBERS = st.fixed_dictionaries(
    {"kid": st.just("k"), "kty": st.sampled_from(["EC", "RSA", "OKP"])},
    optional={
        "crv": st.sampled_from(["P-256", "P-384", "P-521", "Ed25519", "Ed448"]) | _VALUES,
        **dict.fromkeys(("x", "y", "n", "e", "use", "alg"), _VALUES),
    },
)


@given(st.lists(_MEMBERS, max_size=3))
def test_no_key_breaks_its_set(members: list[dict[str, Any]]) -> None:
    """Beside whatever a set holds, a good key is found."""
    good = {**_GOOD.jwk(), "kid": "good"}
    found = read_keys(json.dumps({"keys": [*members, good]}).encode(), ALGORITHMS.keys())

    assert ("good", "ES256") in found


_GOOD = SigningKey.made("ES256")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MESH_TOKEN_ALGORITHMS", "none"),
        ("MESH_TOKEN_ALGORITHMS", "HS256"),
        ("MESH_TOKEN_ALGORITHMS", "ES256,HS512"),
        ("MESH_TOKEN_ALGORITHMS", "ES256,"),
        ("MESH_TOKEN_ALGORITHMS", "es256"),
        ("MESH_ROLES_CLAIM", "realm_access..roles"),
        ("MESH_OIDC_ISSUER", "http://id.example"),
        ("MESH_OIDC_ISSUER", "http://127.0.0.1.example"),
        ("MESH_OIDC_ISSUER", "https://id.example?realm=a"),
        ("MESH_OIDC_ISSUER", "https://a:b@id.example"),
        ("MESH_OIDC_ISSUER", "id.example"),
        ("MESH_OIDC_ISSUER", "ftp://id.example"),
    ],
)
def test_settings_that_let_anybody_in_stop_the_start(
    tmp_path: Path, setting: str, value: str
) -> None:
    """Unsigned tokens, shared secrets and keys over the open network cannot be configured."""
    with pytest.raises(ConfigError, match=setting):
        TokenVerifier.from_env({setting: value}, tmp_path)


@pytest.mark.parametrize("other", ["MESH_JWKS", "MESH_ISSUER"])
def test_two_issuers_stop_the_start(tmp_path: Path, other: str) -> None:
    """Whose users are let in is said once."""
    with pytest.raises(ConfigError, match="MESH_OIDC_ISSUER"):
        TokenVerifier.from_env({"MESH_OIDC_ISSUER": "https://id.example", other: "x"}, tmp_path)


async def test_a_provider_is_configured_by_the_environment(tmp_path: Path) -> None:
    """Tokens as Keycloak makes them by itself, once the settings say so."""
    async with OidcProvider("RS256", audience="travel").running() as provider:
        environ = {
            "MESH_OIDC_ISSUER": provider.issuer,
            "MESH_AUDIENCE": "travel",
            "MESH_TOKEN_ALGORITHMS": "ES256, RS256",
            "MESH_ROLES_CLAIM": "realm_access.roles",
        }
        token = provider.sign(realm_access={"roles": ["operator"]}, roles=["customer"])
        verifier = TokenVerifier.from_env(environ, tmp_path)
        job = asyncio.create_task(verifier.run())
        user = await verifier.verify(token)
        job.cancel()

    assert user.roles == {"operator"}


@pytest.mark.parametrize(
    ("claim", "claims", "roles"),
    [
        ("a.b", {"a": {"b": ["customer"]}}, {"customer"}),
        ("https://x.example/roles", {"https://x.example/roles": ["customer"]}, {"customer"}),
        ("a.b", {"a": {}}, set()),
        ("a.b", {}, set()),
        ("a.b", {"a": ["b"]}, None),
        ("a.b", {"a": {"b": "customer"}}, None),
        ("a.b", {"a": {"b": None}}, None),
        ("a.b", {"a.b": ["customer"]}, set()),
    ],
)
async def test_roles_are_where_the_configuration_says(
    provider: OidcProvider,
    tmp_path: Path,
    claim: str,
    claims: dict[str, Any],
    roles: set[str] | None,
) -> None:
    """A claim or a path to one; absent it gives no role, of another type no user (None)."""
    environ = {"MESH_OIDC_ISSUER": provider.issuer, "MESH_ROLES_CLAIM": claim}
    verifier = TokenVerifier.from_env(environ, tmp_path)
    job = asyncio.create_task(verifier.run())
    try:
        found: Any = (await verifier.verify(provider.sign(**claims))).roles
    except Unauthenticated:
        found = None
    job.cancel()

    assert found == roles


@pytest.mark.parametrize(
    ("types", "header", "user"),
    [
        ("", "at+jwt", "ann"),
        ("", "application/AT+JWT", "ann"),
        ("", "JWT", "nobody"),
        ("", None, "nobody"),
        ("at+jwt,JWT", "jwt", "ann"),
        ("at+jwt,JWT", None, "nobody"),
        ("JWT,absent", None, "ann"),
        ("JWT,absent", "at+jwt", "nobody"),
        ("JWT,absent", "absent", "nobody"),
    ],
)
async def test_types_of_tokens_are_configured(
    provider: OidcProvider, tmp_path: Path, types: str, header: str | None, user: str
) -> None:
    """Access tokens alone by default; others where an operator says so."""
    environ = {"MESH_OIDC_ISSUER": provider.issuer, "MESH_TOKEN_TYPES": types}
    verifier = TokenVerifier.from_env(environ, tmp_path)
    job = asyncio.create_task(verifier.run())
    try:
        subject = (await verifier.verify(provider.sign(typ=header))).subject
    except Unauthenticated:
        subject = "nobody"
    job.cancel()

    assert subject == user
