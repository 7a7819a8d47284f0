"""The compose file's own commands, environment and configuration of Consul, run as processes."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
import yaml  # type: ignore[import-untyped]  # for one file, stubs are not worth it

from tests.e2e.native import FEW_FLIGHTS, Machine, flights_for, machine, refused
from tests.tools.test_containers import instructions
from tools.binaries import ROOT

pytestmark = pytest.mark.timeout(300)

SERVICES: Final[dict[str, Any]] = yaml.safe_load(
    (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
)["services"]
BUILT_IN: Final = {
    "/srv/flightmesh/container": ROOT / "deploy" / "container",
    "/etc/flightmesh/agent.hcl": ROOT / "consul" / "agent.hcl",
}


class Compose:
    """Containers of the compose file on a machine."""

    def __init__(self, on: Machine) -> None:
        self.on = on

    def words(self, name: str, listed: Sequence[str]) -> list[str]:
        """A command of a container."""
        found = [self.on.mapped(word, name, self._mounts(name)) for word in listed]
        if "--name" in found:
            at = found.index("--name") + 1
            found[at] = self.on.at(found[at])
        return found

    def command(self, name: str) -> list[str]:
        """What a container runs."""
        service = SERVICES[name]
        entrypoint = service.get("entrypoint", ["/srv/flightmesh/container/entrypoint"])
        found = self.words(name, [*entrypoint, *service.get("command", ())])
        if name == "secrets":  # the folder of the volumes is an option's default
            found += ["--folder", str(self.on.folder / "secrets")]
        if name == "config":
            found += ["--folder", str(self.on.folder / "secrets" / "all")]
        return found

    def environment(self, name: str) -> dict[str, str]:
        """Of the image, and of the container; its database is SQLite."""
        own = {**_of_image(), **SERVICES[name].get("environment", {})}
        own.pop("DATABASE_URL", None)
        return {k: self.on.mapped(str(v), name, self._mounts(name)) for k, v in own.items()}

    def _mounts(self, name: str) -> Mapping[str, Path]:
        state = self.on.folder / "state" / name
        return {
            **BUILT_IN,
            "/secrets": self.on.folder / "secrets",
            "/var/lib/consul": self.on.folder / "consul",
            "/var/lib/flightmesh": state,
        }


def _of_image() -> dict[str, str]:
    words = [word for name, rest in instructions() if name == "ENV" for word in rest.split()]
    found = dict(word.split("=", 1) for word in words)
    del found["PATH"]
    return found


def _checks() -> list[str]:
    """The health check of the image."""
    (rest,) = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    listed = re.search(r"CMD (\[.*\])", rest)
    assert listed
    return list(yaml.safe_load(listed[1]))


async def test_the_file_brings_a_service_up(tmp_path: Path) -> None:
    """Secrets, Consul, its set-up, schedule, and calls of those that may; others are denied."""
    async with machine(tmp_path, [*SERVICES]) as on:
        compose = Compose(on)
        made = await on.run(compose.command("secrets"), compose.environment("secrets"))
        again = await on.run(compose.command("secrets"), compose.environment("secrets"))
        files = [path for path in (tmp_path / "secrets").rglob("*") if path.is_file()]
        consul = compose.environment("consul")
        own = ["-bind=" + on.at("consul")]  # the file has loopback's first address
        await on.start("consul", [*compose.command("consul"), *own], consul)
        _, *check = SERVICES["consul"]["healthcheck"]["test"]
        await on.until(compose.words("consul", check), consul)
        told = await on.run(compose.command("config"), compose.environment("config"))
        schedule = compose.environment("schedule") | {
            "MESH_HOST": on.at("schedule"),
            "MESH_ADVERTISE_HOST": on.at("schedule"),
            "MESH_TIMETABLE": FEW_FLIGHTS,
        }
        await on.start("schedule", compose.command("schedule"), schedule)
        await on.until(compose.words("schedule", _checks()), schedule)
        gateway, search, ads = (
            compose.environment(name) for name in ("gateway-bff", "flight-search", "mesh-ads")
        )
        flights = await flights_for(gateway, tmp_path / "state", "gateway-bff")
        others = await flights_for(search, tmp_path / "state", "flight-search")
        stranger = await refused(ads, tmp_path / "state", "mesh-ads")
        operator = compose.environment("operator")
        tools = [
            await on.run(["python", "-m", *words], operator)
            for words in (
                ("consulmesh.debug", "schedule"),
                ("tools.release", "status", "schedule"),
            )
        ]
        bearer = await on.run([*compose.command("token"), "--role", "operator"], {})
        booking = compose.environment("booking") | {
            "MESH_HOST": on.at("booking"),
            "MESH_ADVERTISE_HOST": on.at("booking"),
        }
        await on.start("booking", compose.command("booking"), booking)
        await on.until(compose.words("booking", _checks()), booking)
        asked = ["python", "-m", "tools.sagas", "--token", bearer[1].strip()]
        sagas = await on.run(asked, operator)
        ended = await on.stop("schedule")
        said = on.output("schedule") + on.output("consul") + made[1] + again[1] + told[1]

    assert (made[0], again[0], told[0]) == (0, 0, 0), made[1] + again[1] + told[1]
    assert flights > 0
    assert others > 0
    assert stranger is grpc.StatusCode.PERMISSION_DENIED
    assert [status for status, _ in tools] == [0, 0], tools
    assert (bearer[0], bearer[1].count(".")) == (0, 2), bearer
    assert sagas == (0, "every saga has ended\n")
    assert ended == 0
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    tokens = [path.read_text() for path in files if path.parent.name == "tokens"]
    assert tokens
    assert not [token for token in tokens if token in said]


async def test_a_container_finds_its_address_in_the_network_of_consul(tmp_path: Path) -> None:
    """Of several addresses the entrypoint takes the one from which Consul is reached."""
    async with machine(tmp_path, ["consul"]) as on:
        script = ["python", str(ROOT / "deploy" / "container" / "address.py")]
        near, far = await asyncio.gather(
            on.run(script, {"CONSUL_HTTP_ADDR": f"https://{on.at('consul')}:8501"}),
            on.run(script, {"CONSUL_HTTP_ADDR": "[::1]:8500"}),
        )

    assert near == (0, "127.0.0.1\n")
    assert far == (0, "::1\n")
