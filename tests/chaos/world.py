"""The durable services, each an instance or more, as processes that know each other's addresses."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.checker import Urls
from consulmesh.local_issuer import LocalIssuer
from consulmesh.testing import StaticMesh
from consulmesh.testing.ports import free_port
from tests.chaos.launch import Launch, Pace
from tests.chaos.processes import Process, Zygote
from tests.chaos.timetable import first_day

SERVICES: Final = ("schedule", "pricing", "booking")
"""In the order in which they can start: each waits for those before it."""


class World:
    """What runs where. Addresses and databases stay the same whoever is killed and started.

    `url_of` names a database for a service, `urls` has what it said. `issuer` gives tokens that
    booking accepts; `day` is that of the flights of the timetable.

    State: the newest process of each instance, and the detours.
    """

    def __init__(
        self,
        forks: Zygote,
        folder: Path,
        url_of: Callable[[str], str],
        *,
        instances: Mapping[str, int] | None = None,
        pace: Pace | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.urls = {service: url_of(service) for service in SERVICES}
        self.issuer = LocalIssuer(folder / "issuer")
        self._forks = forks
        self._pace = pace or Pace()
        count = dict.fromkeys(SERVICES, 1) | dict(instances or {})
        self._ports = {
            (service, slot): free_port()
            for service in SERVICES
            for slot in range(1, count[service] + 1)
        }
        self._processes: dict[tuple[str, int], Process] = {}
        self._detours: dict[str, dict[str, str]] = {}
        self.day = first_day()

    @property
    def targets(self) -> Mapping[str, str]:
        """Where the services are: gRPC's targets, with all instances."""
        return {service: _target(self.ports(service)) for service in SERVICES}

    @property
    def instances(self) -> list[tuple[str, int]]:
        """Service and slot of every instance, in the order in which they can start."""
        return list(self._ports)

    @property
    def databases(self) -> Urls:
        """The databases, as the judge wants them."""
        return Urls(**self.urls)

    def ports(self, service: str) -> list[int]:
        """Where the instances of a service listen, or will."""
        return [port for of, port in self._ports.items() if of[0] == service]

    def detour(self, service: str, upstream: str, ports: Sequence[int]) -> None:
        """Let a service reach an upstream at other ports from its next start on."""
        self._detours.setdefault(service, {})[upstream] = _target(ports)

    def process(self, service: str, slot: int = 1) -> Process:
        """The newest process of an instance."""
        return self._processes[service, slot]

    def caller(self, service: str = "", slot: int = 1) -> StaticMesh:
        """A client of all instances; or, where one is named, of that one of its service."""
        targets = dict(self.targets)
        if service:
            targets[service] = _target([self._ports[service, slot]])
        return StaticMesh("test", targets)

    async def start(
        self, service: str, slot: int = 1, *, failpoint: str = "", pace: Pace | None = None
    ) -> Process:
        """Kill the instance, if it runs, and start it again; it may not serve yet.

        `failpoint` is what `MESH_FAILPOINT` says, as in "booking.begin:written".
        """
        if (service, slot) in self._processes:
            await self.kill(service, slot)
        process = await self._forks.start(
            Launch(
                service=service,
                slot=slot,
                port=self._ports[service, slot],
                folder=str(self.folder),
                url=self.urls[service],
                targets={**self.targets, **self._detours.get(service, {})},
                first_day=self.day.toordinal(),
                environ={"MESH_FAILPOINT": failpoint} if failpoint else {},
                pace=pace or self._pace,
            )
        )
        self._processes[service, slot] = process
        return process

    async def up(self) -> None:
        """Start every instance and wait until all serve."""
        for service, slot in self.instances:
            await (await self.start(service, slot)).serving()

    async def kill(self, service: str, slot: int = 1) -> None:
        """Kill an instance and wait for its end."""
        process = self._processes[service, slot]
        process.kill()
        await process.ended()

    async def down(self) -> None:
        """Kill all that was started."""
        for service, slot in self._processes:
            await self.kill(service, slot)


def _target(ports: Sequence[int]) -> str:
    return f"ipv4:{','.join(f'127.0.0.1:{port}' for port in ports)}"
