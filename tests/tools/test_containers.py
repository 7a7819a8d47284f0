"""What the image and the compose file allow a container that was broken into. Nothing is run."""

import json
import re
import shlex
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # for one file, stubs are not worth it

from tools.binaries import ROOT
from tools.programs import DURABLE

COMPOSE: Final[dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = sorted(name for name, service in SERVICES.items() if "build" in service)
FOREIGN: Final = sorted(SERVICES.keys() - OURS)
ADDED: Final = {
    # its entrypoint begins as root, owns the data folder, and goes on as a user of its own
    "postgres": {"CHOWN", "DAC_READ_SEARCH", "FOWNER", "SETGID", "SETUID"},
}
MEMBERS: Final = ("schedule", "pricing", "flight-search", "booking", "gateway-bff", "mesh-ads")
ONCE: Final = ("secrets", "config")
TOOLS: Final = ("operator", "token")
OWNER: Final = "10001:10001"
"""Who owns what `secrets` makes: the user of our image."""
WRITTEN: Final = {"postgres"}
"""Compose cannot hand a secret out of the environment to a read-only container."""
SECRET: Final = re.compile("password|token|secret|key", re.IGNORECASE)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: name and the rest, lines that go on joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    found = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(name, rest.strip()) for name, _, rest in found]


def last_stage() -> list[tuple[str, str]]:
    """The instructions that make the image that is run."""
    whole = instructions()
    start = max(at for at, (name, _) in enumerate(whole) if name == "FROM")
    return whole[start:]


def test_the_image_does_not_run_as_root() -> None:
    """The last user is one that the image makes, and what it runs is not the user's to change."""
    stage = last_stage()
    users = [rest for name, rest in stage if name == "USER"]
    made = [rest for name, rest in stage if name == "RUN" and "useradd" in rest]
    copies = [rest for name, rest in stage if name == "COPY"]
    after = [name for name, _ in stage[[name for name, _ in stage].index("USER") :]]

    assert users == ["flightmesh"]
    assert "--uid 10001 --gid 10001" in made[0]
    assert "flightmesh" in shlex.split(made[0])
    assert not any("--chown" in each or "--chmod" in each for each in copies)
    assert {"COPY", "ADD", "RUN"}.isdisjoint(after)


def test_the_image_has_no_secret_and_fetches_nothing_unpinned() -> None:
    """No argument or variable of the build is one; what pip installs has hashes."""
    whole = instructions()
    settings = [rest for name, rest in whole if name in {"ARG", "ENV"}]
    installs = [rest for name, rest in whole if name == "RUN" and "pip install" in rest]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert not any(SECRET.search(each) for each in settings)
    assert all("--require-hashes" in each or "--no-deps" in each for each in installs)
    assert not any(name == "ADD" for name, _ in whole)
    assert {".git", ".run", ".env", ".venv"} <= {*ignored}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_gains_no_rights(name: str) -> None:
    """No capabilities but those that are named here, and no more of them by any program."""
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert {*service.get("cap_add", ())} == ADDED.get(name, set())
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "devices", "pid", "ipc"}
    assert service.get("network_mode", "none") == "none"
    assert service.get("user") == (OWNER if name == "consul" else None)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_cannot_be_written(name: str) -> None:
    """Its root is read-only but where that cannot be; the host's files are never written."""
    service = SERVICES[name]
    mounts = [mount.split(":") for mount in service.get("volumes", ())]
    hosts = [mount for mount in mounts if mount[0].startswith((".", "/", "~"))]

    assert service.get("read_only", False) is (name not in WRITTEN)
    assert all(mount[-1] == "ro" for mount in hosts)
    assert not any("docker.sock" in mount[0] for mount in mounts)


def mounted(name: str) -> dict[str, tuple[str, str]]:
    """The named volumes of a container: where, and `ro` or `rw`."""
    found = {}
    for mount in SERVICES[name].get("volumes", ()):
        volume, target, *mode = mount.split(":")
        if not volume.startswith("."):
            found[volume] = (target, *mode) if mode else (target, "rw")
    return found


def test_no_container_has_anothers_secrets() -> None:
    """Who makes them and who tells Consul have all, for a moment; everybody else its own."""
    secret = {
        name: {
            volume: how for volume, how in mounted(name).items() if how[0].startswith("/secrets")
        }
        for name in SERVICES
    }
    making = secret.pop("secrets")

    assert secret == {
        **{name: {f"{name}-secrets": (f"/secrets/{name}", "ro")} for name in MEMBERS},
        "consul": {"consul-secrets": ("/secrets/consul", "ro")},
        "operator": {"operator-secrets": ("/secrets/operator", "ro")},
        "config": {"all": ("/secrets/all", "ro")},
        "token": {"issuer": ("/secrets/issuer", "rw")},
        "postgres": {},
    }
    assert {volume: target for volume, (target, _) in making.items()} == {
        volume: target for each in secret.values() for volume, (target, _) in each.items()
    }
    assert {SERVICES[name]["restart"] for name in ONCE} == {"no"}
    assert all(SERVICES[name]["profiles"] == ["operator"] for name in TOOLS)


@pytest.mark.parametrize("name", [*MEMBERS, "operator"])
def test_a_process_is_told_its_own_secrets(name: str) -> None:
    """It is in the secure profile, by TLS, with a file of its own volume for each secret."""
    environment = SERVICES[name]["environment"]
    files = {key: value for key, value in environment.items() if value.startswith("/")}

    assert environment["MESH_SECURE"] == "true"
    assert environment["CONSUL_HTTP_ADDR"].startswith("https://consul:")
    assert "CONSUL_HTTP_TOKEN" not in environment
    assert files["CONSUL_HTTP_TOKEN_FILE"] == f"/secrets/{name}/tokens/{name}"
    assert files["CONSUL_CACERT"] == f"/secrets/{name}/tls/roots.pem"
    assert all(value.startswith(f"/secrets/{name}/") for value in files.values())


def test_new_volumes_belong_to_the_images_user() -> None:
    """The folders over which volumes are mounted are in the image, and nobody else's."""
    (made,) = (rest for name, rest in last_stage() if name == "RUN")
    folders = {word for word in shlex.split(made) if word.startswith("/")}
    targets = {target for name in OURS for target, _ in mounted(name).values()}

    assert "--owner=flightmesh --mode=0700" in made
    assert targets <= folders
    assert mounted("consul")["consul-data"] == ("/var/lib/consul", "rw")
    assert "/var/lib/consul" in targets


def test_consul_is_asked_by_tls_alone() -> None:
    """Plain HTTP and gRPC have no port; what its configuration is made of is not in the file."""
    words = SERVICES["consul"]["command"]

    assert {"-http-port=-1", "-https-port=8501", "-grpc-tls-port=8503"} <= {*words}
    assert "-config-file=/secrets/consul/consul.json" in words


def test_containers_are_in_the_networks_that_they_need() -> None:
    """PostgreSQL is seen by those that keep data there, and nobody there reaches the outside."""
    networks = {name: {*service.get("networks", ())} for name, service in SERVICES.items()}

    assert {name for name, of in networks.items() if "data" in of} == {"postgres", *DURABLE}
    assert networks["postgres"] == {"data"}
    assert COMPOSE["networks"]["data"] == {"internal": True}
    assert {name for name, of in networks.items() if "public" in of} == {"gateway-bff"}
    assert {name for name, of in networks.items() if not of} == {"secrets", "token"}


def documented() -> set[str]:
    """The variables of the tables in docs/operations.md."""
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    return {*re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE)}


def test_variables_are_those_that_are_read() -> None:
    """A name that no process knows would be a setting without effect."""
    image = {
        word.partition("=")[0] for n, rest in last_stage() if n == "ENV" for word in rest.split()
    }
    told = {key for name in OURS for key in SERVICES[name].get("environment", {})}

    assert (told | image) - {"PATH", "PYTHONUNBUFFERED"} <= documented()


def test_health_is_asked_for_at_the_health_port() -> None:
    """The image names the port, and its check asks there; the gateway has one of its own."""
    (settings,) = (rest for name, rest in last_stage() if name == "ENV")
    script = (ROOT / "deploy" / "container" / "healthcheck.py").read_text(encoding="utf-8")
    own = {name for name in MEMBERS if "healthcheck" in SERVICES[name]}

    assert "MESH_HEALTH_PORT=" in settings
    assert "MESH_HEALTH_PORT" in script
    assert own == {"gateway-bff"}
    assert "/readyz" in json.dumps(SERVICES["gateway-bff"]["healthcheck"])


def test_ports_beyond_loopback_are_the_gateways() -> None:
    """Consul and the shared ADS are for this machine, PostgreSQL for the network of containers."""
    open_to_all = {
        name
        for name, service in SERVICES.items()
        for port in service.get("ports", ())
        if not port.startswith("127.0.0.1:")
    }

    assert open_to_all == {"gateway-bff"}
    assert "ports" not in SERVICES["postgres"]


def test_the_compose_file_has_no_secret() -> None:
    """What is secret is asked for: from the environment, or a file."""
    given = {
        value
        for service in SERVICES.values()
        for key, value in (service.get("environment") or {}).items()
        if SECRET.search(key) or "://" in str(value)
    }
    passwords = [re.search(r"//[^:/]+:([^@]*)@", str(value)) for value in given]

    assert all(found is None or found[1].startswith("${") for found in passwords)
    assert all(value.startswith(("/", "https://", "postgresql://")) for value in given), json.dumps(
        sorted(given)
    )
    assert COMPOSE["secrets"] == {"postgres-password": {"environment": "POSTGRES_PASSWORD"}}


def test_images_of_others_have_a_version() -> None:
    """So that what runs is what was looked at."""
    assert [name for name in FOREIGN if ":" not in SERVICES[name]["image"]] == []
    assert OURS
    assert FOREIGN == ["consul", "postgres"]
