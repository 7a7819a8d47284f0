"""Which profile a system has, and the secrets of a secure one."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tools import secure
from tools.credentials import Credentials
from tools.operators import target
from tools.programs import IDENTITIES, Settings, mesh_programs, supervisor_config

ANOTHER = {"CONSUL_HTTP_ADDR": "consul.example:8500"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A system that was never started."""
    (tmp_path / "consul").mkdir()
    return Settings(run=tmp_path)


def test_a_system_keeps_the_profile_that_it_has(settings: Settings) -> None:
    """It is plain until it is told otherwise, and then secure until it is told otherwise."""
    before = secure.choose(settings, {}, asked=None)
    secure.remember(settings, secure=True)
    after = secure.choose(settings, {}, asked=None)
    secure.refuse_another(settings, wanted=True)
    with pytest.raises(SystemExit) as refused:
        secure.refuse_another(settings, wanted=False)
    left = secure.environment_file(settings).exists()
    secure.remember(settings, secure=False)

    assert (before, after, settings.secure) == (False, True, False)
    assert "make down" in str(refused.value)
    assert left
    assert not secure.environment_file(settings).exists()


def test_another_consul_is_not_made_secure(settings: Settings) -> None:
    """Tokens are written to the system's own Consul alone; its own address may be named."""
    with pytest.raises(SystemExit) as refused:
        secure.choose(settings, ANOTHER, asked=True)
    own = {"CONSUL_HTTP_ADDR": settings.own_consul_url(secure=True)}

    assert "docs/security.md" in str(refused.value)
    assert secure.choose(settings, own, asked=True)
    assert not secure.choose(settings, ANOTHER, asked=False)


def test_secrets_are_made_once(settings: Settings) -> None:
    """Each has its own token; a second start finds them, and a certificate that is still good."""
    credentials = Credentials(run=settings.run)
    credentials.prepare(IDENTITIES)
    first = {path: path.read_bytes() for path in settings.run.rglob("*") if path.is_file()}
    credentials.prepare(IDENTITIES)
    again = {path: path.read_bytes() for path in settings.run.rglob("*") if path.is_file()}

    assert again == first
    assert len(set(first.values())) == len(first) == len(IDENTITIES) + 3 + 3
    assert {path.stat().st_mode & 0o777 for path in first} == {0o600}


def test_a_certificate_that_ends_soon_is_made_anew(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in the last month makes another one, which its roots verify."""
    monkeypatch.setattr("tools.credentials._LIFE", timedelta(days=29))
    Credentials(run=settings.run).prepare(IDENTITIES)
    old = Credentials(run=settings.run).roots.read_bytes()
    monkeypatch.setattr("tools.credentials._LIFE", timedelta(days=365))
    Credentials(run=settings.run).prepare(IDENTITIES)
    context = ssl.create_default_context(cafile=Credentials(run=settings.run).roots)
    (root,) = context.get_ca_certs()
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(root["notAfter"])), UTC)

    assert Credentials(run=settings.run).roots.read_bytes() != old
    assert ends > datetime.now(UTC) + timedelta(days=300)


def test_processes_are_told_files_not_secrets(settings: Settings) -> None:
    """Each process of a secure system gets its own service's token file, and no token."""
    secure.remember(settings, secure=True)
    wanted = list(mesh_programs(settings, 2))
    text = supervisor_config(settings, wanted)
    files = {p.name: p.environment["CONSUL_HTTP_TOKEN_FILE"] for p in wanted}

    assert {p.environment["MESH_SECURE"] for p in wanted} == {"true"}
    assert {p.environment["CONSUL_HTTP_TOKEN"] for p in wanted} == {""}
    assert files["booking-2"] == str(settings.run / "tokens" / "booking")
    assert files["mesh-ads"] == str(settings.run / "tokens" / "mesh-ads")
    assert not any(settings.credentials.token(name) in text for name in IDENTITIES)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["-plaintext", "xds:///booking", "list"], "xds:///booking"),
        (["-d", '{"at": "a:1"}', "127.0.0.1:80", "a.B/C"], "127.0.0.1:80"),
        (["-H", "authorization: Bearer x", "[::1]:80", "list"], "[::1]:80"),
        (["-help"], ""),
    ],
    ids=str,
)
def test_where_grpcurl_calls(words: list[str], where: str) -> None:
    """Among grpcurl's words the one is found that says where to."""
    assert target(words) == where
