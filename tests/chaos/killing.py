"""Cells in which a process dies at a point."""

import asyncio
import random
import signal
from typing import Final

from tests.chaos.cells import Cell
from tests.chaos.processes import Process
from tests.chaos.scenarios import Scene
from tests.chaos.stage import REACHED, CellFailedError, Stage

AGAIN: Final = 2.0  # seconds in which a process that came back may die once more


class Killing(Stage):
    """Kills at the point, sometimes again during the recovery, and starts the process again."""

    async def strike(self, cell: Cell, scene: Scene, playing: asyncio.Task[object]) -> None:
        """See the process die, and come back."""
        await self._died(cell, scene.victim)
        if cell.again:
            await self._die_again(cell, playing)
        await (await self.world.start(cell.service)).serving()

    async def _died(self, cell: Cell, armed: Process) -> None:
        try:
            status = await armed.ended(REACHED)
        except TimeoutError:
            raise CellFailedError("the point was not reached") from None
        if status != -signal.SIGKILL:
            raise CellFailedError(f"ended with {status} instead of dying at the point")
        self.hit(cell)

    async def _die_again(self, cell: Cell, playing: asyncio.Task[object]) -> None:
        """Come back armed: die once more, or not, before everybody has their answers."""
        again = await self.arm(cell, self._second(cell))
        dying = asyncio.create_task(again.ended(AGAIN))
        await asyncio.wait((dying, playing), return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        if again.status is not None:
            await self._died(cell, again)

    def _second(self, cell: Cell) -> str:
        """The same point, or every other time another one that the cell's name draws."""
        if cell.number % 8:
            return cell.failpoint
        step = random.Random(cell.name).choice(self.steps[cell.service])
        return f"{step}:{cell.point}"
