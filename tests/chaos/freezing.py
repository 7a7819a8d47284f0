"""Cells in which an instance of booking freezes at a point, and wakes up when all is decided."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGCONT

from tests.chaos.cells import Cell
from tests.chaos.processes import Process
from tests.chaos.scenarios import Scene
from tests.chaos.stage import REACHED, CellFailedError, Stage


class Freezing(Stage):
    """Freezes the first instance, lets the second one finish, and wakes the first one up."""

    async def strike(self, cell: Cell, scene: Scene, playing: asyncio.Task[object]) -> None:
        """See the process freeze; whoever asks the other instance gets the outcome meanwhile."""
        try:
            await scene.victim.stopped(REACHED)
        except TimeoutError:
            raise CellFailedError("the point was not reached") from None
        self.hit(cell)
        async with self.world.caller("booking", 2) as other:
            await self.customer(other, cell, "witness").settled()
        scene.victim.send(SIGCONT)
        await scene.victim.continued()
        await playing
        await scene.customer.settled()
        if scene.victim.status is not None:
            raise CellFailedError(f"woke up, and ended with {scene.victim.status}")
        await (await self.world.start(cell.service)).serving()

    @asynccontextmanager
    async def scene(self, cell: Cell) -> AsyncIterator[Scene]:
        """A user who reaches the first instance alone."""
        async with super().scene(cell) as scene, self.world.caller("booking", 1) as caller:
            scene.customer = self.customer(caller, cell)
            yield scene

    async def arm(self, cell: Cell, failpoint: str) -> Process:
        """Restart the cell's process so that it freezes at a point."""
        return await super().arm(cell, f"{failpoint}:1:stop")
