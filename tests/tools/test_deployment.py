"""The secrets of a system in containers: who is given which, and how Kubernetes has them."""

from base64 import b64decode
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from tools.credentials import AGENT, CONSUL, MANAGEMENT, RELEASES, Credentials
from tools.deployment import hand_out, kubernetes, parts
from tools.programs import DURABLE, IDENTITIES


def names(file: Path) -> set[str]:
    """What a certificate is for."""
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(each.value) for each in found}


def test_each_is_given_its_own_token(tmp_path: Path) -> None:
    """No folder of a service has a token of another one, or a key."""
    hand_out(tmp_path, ["consul"])
    tokens = {
        name: {path.name for path in (tmp_path / name / "tokens").iterdir()} for name in IDENTITIES
    }
    keys = {path.parent.parent.name for path in tmp_path.rglob("*key.pem")}

    assert tokens.pop("operator") == {"operator", RELEASES}
    assert tokens == {name: {name} for name in tokens}
    assert keys == {"all", "consul", tmp_path.name}
    assert {p.stat().st_mode & 0o777 for p in tmp_path.rglob("*") if p.is_file()} == {0o600}


def test_what_was_handed_out_stays(tmp_path: Path) -> None:
    """A second start finds everything as it was; another name of Consul makes a certificate."""

    def found() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    hand_out(tmp_path, ["consul"])
    first = found()
    hand_out(tmp_path, ["consul"])
    second = found()
    hand_out(tmp_path, ["consul", "10.1.2.3"])
    third = {path for path, content in found().items() if content != first[path]}

    assert second == first
    assert {path.parent.name for path in third} == {"tls"}
    assert names(tmp_path / "consul" / "tls" / "consul.pem") >= {"consul", "10.1.2.3", "127.0.0.1"}


def test_an_agent_is_no_server(tmp_path: Path) -> None:
    """Its certificate lacks the name by which servers know each other; its token is less."""
    credentials = Credentials(run=tmp_path, servers=["consul"], agents=["consul-agent"])
    credentials.prepare(IDENTITIES)
    given = parts(credentials, tmp_path / "issuer")
    server, agent = (names(tmp_path / "tls" / f"{name}.pem") for name in (CONSUL, AGENT))
    seen_by_agent = b"".join(given["consul-agent"].values()).decode()

    assert "server.dc1.consul" in server
    assert not [name for name in agent if name.endswith(".consul")]
    assert credentials.token(AGENT) in seen_by_agent
    assert credentials.token(MANAGEMENT) not in seen_by_agent
    assert credentials.token(MANAGEMENT) in given["consul"]["consul.json"].decode()


def test_kubernetes_has_a_secret_for_each(tmp_path: Path) -> None:
    """They are the same at each call, in the namespace, and a service's has its own token alone."""
    listed = kubernetes(tmp_path, "travel", ["10.1.2.3"])
    again = kubernetes(tmp_path, "travel", ["10.1.2.3"])
    credentials = Credentials(run=tmp_path)
    secrets = {item["metadata"]["name"]: item["data"] for item in listed["items"]}
    holders = {
        token: {name for name, data in secrets.items() if holds(data, credentials.token(token))}
        for token in (*IDENTITIES, MANAGEMENT, RELEASES, AGENT)
    }
    server = names(tmp_path / "tls" / "consul.pem")

    assert again == listed
    assert {item["metadata"]["namespace"] for item in listed["items"]} == {"travel"}
    assert holders == {
        **{name: {name, "consul-setup"} for name in IDENTITIES},
        MANAGEMENT: {"consul-server", "consul-setup"},
        RELEASES: {"operator", "consul-setup"},
        AGENT: {"consul-agent", "consul-setup"},
    }
    assert {f"{name}-database" for name in DURABLE} <= secrets.keys()
    assert server >= {"consul", "consul.travel.svc", str(ip_address("10.1.2.3"))}
    assert (tmp_path / "postgres").stat().st_mode & 0o777 == 0o600


def holds(data: dict[str, str], token: str) -> bool:
    """Whether a Secret has a token somewhere."""
    return any(token in b64decode(value).decode() for value in data.values())
