"""The instances of the services: started, killed, frozen, restarted, each with its own clock."""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from random import Random
from typing import Any, Final

import booking.__main__ as booking_process
import pricing.__main__ as pricing_process
import schedule.__main__ as schedule_process
from booking.runner import DEFAULT_TERMS, Terms
from consulmesh.lifecycle import JobFailedError
from consulmesh.users import TokenVerifier, User
from eventstream import Database
from schedule.timetable import Airports
from tests.simulation.database import InlineDatabase
from tests.simulation.disk import SERVICES, Disk
from tests.simulation.loop import Process
from tests.simulation.member import SimulatedMember
from tests.simulation.network import Network
from tests.simulation.timetable import flights_of

REPLICAS: Final = 2
_RESTARTED_AFTER: Final = 1.0  # seconds, by the supervisor
_PATIENT: Final = replace(DEFAULT_TERMS, fewest=DEFAULT_TERMS.most)
"""No booking is refused for those under way: with faults all the time each of them is late."""
_IMPATIENT: Final = replace(_PATIENT, patience=timedelta(seconds=5))
"""An outage that is as long as most aborts sagas: what is on its way then arrives afterwards."""

Serve = Callable[[SimulatedMember, Database], Coroutine[Any, Any, None]]


class Names(TokenVerifier):
    """Takes a token for the name of its customer: whom to believe is no matter here."""

    def __init__(self) -> None:
        """Needs no keys."""

    async def run(self) -> None:
        """Nothing."""

    async def verify(self, token: str | None) -> User:
        """The customer of that name."""
        return User(issuer="simulation", subject=token or "", roles=frozenset({"customer"}))


class Instance:
    """One instance of a service, over its incarnations.

    State: its process and what belongs to that, and how far its machine's clock is ahead.
    """

    def __init__(self, serve: Serve, number: int, disk: Disk, network: Network, seed: str) -> None:
        self.service = service = disk.service
        self.name = f"{service}-{number}"
        self.process = Process(self.name)
        self.process.alive = False
        self.buried: list[Process] = []
        self._serve = serve
        self._disk = disk
        self._network = network
        self._chance = Random(f"{seed}/{self.name}")
        self._skew = 0.0
        self._over = False
        self._member: SimulatedMember | None = None
        self._database: InlineDatabase | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.process.alive

    def start(self) -> None:
        """Begin a new incarnation, unless there is one."""
        if self.running or self._over:
            return
        self.process = Process(self.name)
        self.process.skew = self._skew
        self.buried.append(self.process)
        self._network.trace.note(f"{self.name} starts")
        self._network.loop.spawn(self.process, self._run(self.process))

    def kill(self) -> None:
        """End the process as `kill -9` does."""
        if not self.running:
            return
        self._network.trace.note(f"{self.name} is killed")
        self._end()

    def kill_at_unit(self, *, committed: bool) -> None:
        """Kill the process at its next unit of work, just before its commit or just after."""
        if self.running and self._database is not None:
            self._database.doom(self.kill, committed=committed)

    def freeze(self) -> None:
        """Stop the process as SIGSTOP does."""
        if self.running:
            self._network.trace.note(f"{self.name} freezes")
            self._network.loop.freeze(self.process)

    def thaw(self) -> None:
        """Let it go on."""
        if self.running and self.process.frozen:
            self._network.trace.note(f"{self.name} thaws")
            self._network.loop.thaw(self.process)

    def leave(self) -> None:
        """Ask it to go, as SIGTERM does."""
        if self.running and self._member is not None:
            self._network.trace.note(f"{self.name} is asked to leave")
            self._network.loop.enter(self.process, self._member.draining.set)

    def set_clock(self, ahead: float) -> None:
        """Set the wall clock of its machine."""
        self._network.trace.note(f"{self.name} has its clock {ahead:+.0f} s ahead")
        self._skew = self.process.skew = ahead

    def close(self) -> None:
        """Let its process do nothing more to the world, whatever it tries, and start no other."""
        self._over = True
        self._cut_off()

    async def _run(self, process: Process) -> None:
        """Be the process, as `main` of the service is."""
        network = self._network
        self._member = member = SimulatedMember(self.service, network, process)
        self._database = database = InlineDatabase(
            self._disk, process, loop=network.loop, chance=self._chance, trace=network.trace
        )
        try:
            await self._serve(member, database)
        finally:
            try:
                await member.leave()
            except JobFailedError as error:
                network.trace.note(f"{self.name} ends: {error} failed")
            await database.aclose()
            self._exited(process)

    def _exited(self, process: Process) -> None:
        if process is self.process and process.alive:
            self._network.trace.note(f"{self.name} has ended")
            self._end()
            at = self._network.loop.time() + _RESTARTED_AFTER
            self._network.world_at(at, self.start)

    def _end(self) -> None:
        self._network.loop.kill(self.process)
        self._network.lost(self.process)
        self._cut_off()

    def _cut_off(self) -> None:
        if self._database is not None:
            self._database.abandon()


class Fleet:
    """All instances, and the disks of their services."""

    def __init__(self, network: Network, seed: str) -> None:
        self.disks: Mapping[str, Disk] = {service: Disk(service) for service in SERVICES}
        terms = Random(f"{seed}/terms").choice((_PATIENT, _IMPATIENT))
        serve: Mapping[str, Serve] = {
            "booking": partial(_booking, terms=terms),
            "pricing": _pricing,
            "schedule": _schedule,
        }
        self.instances = [
            Instance(serve[service], number, self.disks[service], network, seed)
            for service in SERVICES
            for number in range(1, REPLICAS + 1)
        ]

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.instances)

    def of(self, service: str) -> list[Instance]:
        """The instances of a service."""
        return [instance for instance in self.instances if instance.service == service]

    def start(self) -> None:
        """Start whatever does not run."""
        for instance in self.instances:
            instance.start()

    def heal(self) -> None:
        """Let everything run, with the right time and a disk that works."""
        for disk in self.disks.values():
            disk.ill = False
        for instance in self.instances:
            instance.thaw()
            instance.set_clock(0.0)
        self.start()

    def close(self) -> list[Process]:
        """Cut every process off; returns all that there ever were."""
        for instance in self.instances:
            instance.close()
        return [process for instance in self.instances for process in instance.buried]


async def _booking(member: SimulatedMember, database: Database, *, terms: Terms) -> None:
    await booking_process.serve(member, database, Names(), terms=terms)


async def _pricing(member: SimulatedMember, database: Database) -> None:
    await pricing_process.serve(member, database)


async def _schedule(member: SimulatedMember, database: Database) -> None:
    await schedule_process.serve(member, database, _airports(), flights_of)


@cache
def _airports() -> Airports:
    return Airports.load()
