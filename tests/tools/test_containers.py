"""What the image and the compose file allow a container that was broken into. Nothing is run."""

import json
import re
import shlex
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # for one file, stubs are not worth it

from tools.binaries import ROOT

COMPOSE: Final[dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = sorted(name for name, service in SERVICES.items() if "build" in service)
FOREIGN: Final = sorted(SERVICES.keys() - OURS)
ADDED: Final = {
    # their entrypoints begin as root, own the data folder, and go on as a user of their own
    "consul": {"CHOWN", "SETGID", "SETUID"},
    "postgres": {"CHOWN", "DAC_READ_SEARCH", "FOWNER", "SETGID", "SETUID"},
}
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
    assert "--uid 10001" in made[0]
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
    assert not service.keys() & {"privileged", "devices", "pid", "ipc", "network_mode", "user"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_cannot_be_written(name: str) -> None:
    """Its root is read-only but where that cannot be; the host's files are never written."""
    service = SERVICES[name]
    mounts = [mount.split(":") for mount in service.get("volumes", ())]
    hosts = [mount for mount in mounts if mount[0].startswith((".", "/", "~"))]

    assert service.get("read_only", False) is (name not in WRITTEN)
    assert all(mount[-1] == "ro" for mount in hosts)
    assert not any("docker.sock" in mount[0] for mount in mounts)


def test_keys_are_read_only_but_for_who_makes_them() -> None:
    """The issuer's volume is mounted to be read everywhere else."""
    mounts = {
        name: mount.split(":")[-1]
        for name, service in SERVICES.items()
        for mount in service.get("volumes", ())
        if mount.startswith("keys:")
    }

    assert mounts.pop("issuer") == "/keys"
    assert {*mounts.values()} == {"ro"}


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
    assert all(value.startswith(("/", "http://", "postgresql://")) for value in given), json.dumps(
        sorted(given)
    )
    assert COMPOSE["secrets"] == {"postgres-password": {"environment": "POSTGRES_PASSWORD"}}


def test_images_of_others_have_a_version() -> None:
    """So that what runs is what was looked at."""
    assert [name for name in FOREIGN if ":" not in SERVICES[name]["image"]] == []
    assert OURS
    assert FOREIGN == ["consul", "postgres"]
