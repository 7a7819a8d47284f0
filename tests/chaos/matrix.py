"""Plays cells in worlds of their own, several at once, and has the outcome judged."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.checker import Recorder, judge, read_file
from tests.chaos.cells import Cell, Steps
from tests.chaos.processes import DiedError, Zygote
from tests.chaos.rest import at_rest
from tests.chaos.stage import CellFailedError, Outcome, Stage
from tests.chaos.world import World

IN_A_WORLD: Final = 60  # cells: each takes a flight or two

UrlOf = Callable[[str, str], str]
"""Names a database, for a world and a service."""


class Matrix:
    """Plays cells on stages of a kind, in worlds with so many instances of booking."""

    def __init__(
        self,
        forks: Zygote,
        folder: Path,
        url_of: UrlOf,
        steps: Steps,
        *,
        stage: type[Stage],
        bookings: int = 1,
    ) -> None:
        self._forks = forks
        self._folder = folder
        self._url_of = url_of
        self._steps = steps
        self._stage = stage
        self._instances = {"booking": bookings}

    async def play(self, cells: Sequence[Cell], worlds: int) -> Outcome:
        """Play all of them; nothing stops at a failure."""
        outcome = Outcome()
        size = min(IN_A_WORLD, -(-len(cells) // worlds))
        parts = iter([cells[first : first + size] for first in range(0, len(cells), size)])
        names = map("world{}".format, itertools.count())
        async with asyncio.TaskGroup() as group:
            for _ in range(worlds):
                group.create_task(self._play_all(zip(parts, names, strict=False), outcome))
        return outcome

    async def _play_all(
        self, parts: Iterable[tuple[Sequence[Cell], str]], outcome: Outcome
    ) -> None:
        for cells, name in parts:
            async with self._world(name) as world:
                await self._play(world, cells, outcome)

    async def _play(self, world: World, cells: Sequence[Cell], outcome: Outcome) -> None:
        history = world.folder / "history.jsonl"
        await world.up()
        with Recorder.open(history) as recorder:
            stage = self._stage(world, recorder, self._steps, outcome)
            for cell in cells:
                await self._try(stage, cell, outcome)
        await self._judge(world, history, outcome)

    async def _try(self, stage: Stage, cell: Cell, outcome: Outcome) -> None:
        outcome.cells += 1
        try:
            await stage.play(cell)
        except (CellFailedError, DiedError, TimeoutError) as error:
            outcome.failures.append(f"{cell.name}: {error!r}, see {stage.world.folder}")
            await stage.world.up()

    async def _judge(self, world: World, history: Path, outcome: Outcome) -> None:
        try:
            await at_rest(world)
        except TimeoutError:
            outcome.failures.append(f"{world.folder} did not come to rest")
        await world.down()
        report = await asyncio.to_thread(lambda: judge(read_file(history), world.databases))
        outcome.judged(report, history)

    @asynccontextmanager
    async def _world(self, name: str) -> AsyncIterator[World]:
        def url_of(service: str) -> str:
            return self._url_of(name, service)

        world = World(self._forks, self._folder / name, url_of, instances=self._instances)
        try:
            yield world
        finally:
            await world.down()
