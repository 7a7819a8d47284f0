"""Where cells of the matrix are played, and what has come of them."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.checker import Recorder, Report
from consulmesh.testing import StaticMesh
from tests.chaos.cells import Cell, Steps
from tests.chaos.customer import PAUSE, Customer, RefusedError, UnansweredError
from tests.chaos.operations import Operator
from tests.chaos.processes import Process
from tests.chaos.scenarios import Scene
from tests.chaos.timetable import FLIGHTS, flight
from tests.chaos.world import World

REACHED: Final = 60.0  # seconds in which a scenario comes to the point
PLAYED: Final = 120.0  # seconds in which everybody has their answers after a crash


class CellFailedError(Exception):
    """A cell did not go as it must; the message says how."""


@dataclass(slots=True)
class Outcome:
    """What came of a matrix. `hits` counts processes that died or froze at a point."""

    cells: int = 0
    hits: int = 0
    bookings: int = 0
    failures: list[str] = field(default_factory=list)

    def judged(self, report: Report, history: Path) -> None:
        """Add what the judge says of a world."""
        self.bookings += report.counts["bookings"]
        if not report.holds:
            self.failures.append(f"{report}\nhistory: {history}")


class Stage(ABC):
    """One world, in which cells are played one after the other.

    State: the flights that are left for them.
    """

    def __init__(self, world: World, recorder: Recorder, steps: Steps, outcome: Outcome) -> None:
        self.world = world
        self.recorder = recorder
        self.steps = steps
        self.outcome = outcome
        self._fresh = iter(flight(number, world.day) for number in range(1, FLIGHTS))

    async def play(self, cell: Cell) -> None:
        """Play a cell: afterwards everybody has their answers, and nothing is armed."""
        async with self.scene(cell) as scene:
            if cell.scenario.prepare:
                await cell.scenario.prepare(scene)
            scene.armed = await self.arm(cell, cell.failpoint)
            playing = asyncio.create_task(self._played(cell, scene))
            try:
                await self.strike(cell, scene, playing)
                async with asyncio.timeout(PLAYED):
                    await playing
            finally:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
            await scene.customer.settled()
        for of in self.world.instances:
            process = self.world.process(*of)
            if process.status is not None:
                raise CellFailedError(f"{process} has ended, and nobody had armed it")

    @abstractmethod
    async def strike(self, cell: Cell, scene: Scene, playing: asyncio.Task[object]) -> None:
        """See the armed process come to its point, while it is played, and help it up again."""

    async def arm(self, cell: Cell, failpoint: str) -> Process:
        """Restart the cell's process so that it comes to a point."""
        return await self.world.start(cell.service, failpoint=failpoint, pace=cell.scenario.pace)

    def hit(self, cell: Cell) -> None:
        """A process has come to its point."""
        self.outcome.hits += 1
        self.recorder.nemesis("hit", cell=cell.name)

    @asynccontextmanager
    async def scene(self, cell: Cell) -> AsyncIterator[Scene]:
        """A user and an operator of the cell's own, who reach every instance."""
        async with self.world.caller() as caller:
            yield Scene(
                world=self.world,
                customer=self.customer(caller, cell),
                operator=Operator(caller, cell.name, cell.way),
                fresh=self._fresh,
                service=cell.service,
            )

    def customer(self, caller: StaticMesh, cell: Cell, process: str = "") -> Customer:
        """The user of a cell, or the same one at another desk."""
        return Customer(
            caller,
            self.world.issuer,
            self.recorder,
            name=process or cell.name,
            user=cell.name,
            way=cell.way,
        )

    async def _played(self, cell: Cell, scene: Scene) -> object:
        """Play, and again where it was cut short though nothing had come to the point yet.

        An owner that has just come back may be found by its callers a moment later.
        """
        while True:
            try:
                return await cell.scenario.play(scene)
            except (UnansweredError, RefusedError):
                if scene.victim.struck:
                    return None
                await asyncio.sleep(PAUSE)
