"""`Database` on the loop's thread: the same methods and promises, over a simulated disk."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from eventstream import Database, DatabaseClosedError, StorageUnavailableError
from eventstream.steps import UNNAMED, Step
from tests.simulation.disk import Disk
from tests.simulation.loop import Process, VirtualLoop
from tests.simulation.trace import Trace

_T = TypeVar("_T")

_USUAL: Final = 0.001  # seconds: to wait for the writer, to flush, to read
_NOTICED: Final = 0.01  # until other processes notice a commit
_FAILING: Final = 0.5  # of the units while a disk is ill


class InlineDatabase(Database):
    """One process's view of a disk.

    Units of a process run in the order they were submitted in. Between the moments a unit is
    submitted, is committed and is told of, the process can die or freeze, and others can commit.

    State: `_version`, `_elsewhere`, `_news`, whether it is closed, when the last unit commits and
    is told of, and whether the process dies at its next unit.
    """

    def __init__(
        self,
        disk: Disk,
        process: Process,
        *,
        loop: VirtualLoop,
        chance: random.Random,
        trace: Trace,
    ) -> None:
        self._disk = disk
        self._process = process
        self._loop = loop
        self._chance = chance
        self._trace = trace
        self._version = 0
        self._elsewhere = 0
        self._news = asyncio.Event()
        self._closed = False
        self._commits_at = 0.0
        self._tells_at = 0.0
        self._doom: tuple[bool, Callable[[], None]] | None = None
        disk.listeners.append(self)

    async def write(self, unit: Callable[[Connection], _T], *, step: Step = UNNAMED) -> _T:
        """Run `unit` in a transaction and return what it returned once that is durable."""
        self._check_open()
        future: asyncio.Future[_T] = self._loop.create_future()
        self._commits_at = self._after(self._commits_at)
        self._loop.call_at(self._commits_at, self._commit, unit, step, future)
        return await future

    async def read(self, query: Callable[[Connection], _T]) -> _T:
        """Run `query` on what is committed; when it returns that may have changed."""
        self._check_open()
        if self._fails():
            raise StorageUnavailableError("the simulated disk can't be read")
        value = self._disk.query(query)
        await asyncio.sleep(self._chance.expovariate(1 / _USUAL))
        return value

    @property
    def version(self) -> int:
        """A number that grows with every commit that this process knows of."""
        return self._version

    async def changed(self, seen: int) -> int:
        """Wait until `version` is beyond `seen` and return it."""
        while self._version <= seen:
            self._check_open()
            await self._news.wait()
        return self._version

    @property
    def elsewhere(self) -> int:
        """A number that grows with every commit of another process that this one knows of."""
        return self._elsewhere

    async def changed_elsewhere(self, seen: int) -> int:
        """Wait until `elsewhere` is beyond `seen` and return it."""
        while self._elsewhere <= seen:
            self._check_open()
            await self._news.wait()
        return self._elsewhere

    async def aclose(self) -> None:
        """Refuse new work and finish what is queued; may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._disk.listeners.remove(self)
        self._news.set()
        await asyncio.sleep(max(0.0, self._tells_at - self._loop.time()) + _USUAL)

    def abandon(self) -> None:
        """What is left of it when its process is killed: nobody tells it anything."""
        if not self._closed:
            self._closed = True
            self._disk.listeners.remove(self)

    def doom(self, die: Callable[[], None], *, committed: bool) -> None:
        """Let the process die at its next unit: just before it is committed, or just after."""
        self._doom = committed, die

    def committed(self) -> None:
        """Another process has committed: notice that soon."""
        self._loop.enter(self._process, self._notice)

    def _notice(self) -> None:
        self._loop.call_later(self._chance.uniform(0.0, 2 * _NOTICED), self._hear)

    def _commit(
        self, unit: Callable[[Connection], _T], step: Step, future: asyncio.Future[_T]
    ) -> None:
        """Commit now, tell later."""
        if self._doom is not None:
            self._die(unit, step)
            return
        ill = self._fails()
        outcome: Any = None
        if not ill or self._chance.random() < _FAILING:
            outcome = self._outcome(unit, step)
        if ill:
            self._trace.note(f"{step.name} told as failed, was {outcome}")
            outcome = StorageUnavailableError("the simulated disk failed")
        self._tells_at = self._after(self._tells_at)
        self._loop.call_at(self._tells_at, self._tell, future, outcome)

    def _die(self, unit: Callable[[Connection], _T], step: Step) -> None:
        committed, die = self._doom or (False, None)
        if committed:
            self._outcome(unit, step)
        else:
            self._trace.note(f"{step.name} is lost")
        if die is not None:
            die()

    def _outcome(self, unit: Callable[[Connection], _T], step: Step) -> Any:
        try:
            value = self._disk.run(unit, self)
        except Exception as error:  # noqa: BLE001 - carried to whoever awaits the unit
            self._trace.note(f"{step.name} undone: {error!r}")
            return error
        self._trace.note(f"{step.name} committed")
        return value

    def _tell(self, future: asyncio.Future[_T], outcome: Any) -> None:
        self._advance()
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _after(self, last: float) -> float:
        usual = self._loop.time() + self._chance.expovariate(1 / _USUAL)
        return max(usual, last + 1e-6)

    def _fails(self) -> bool:
        return self._disk.ill and self._chance.random() < _FAILING

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseClosedError("the database is closed")

    def _hear(self) -> None:
        self._elsewhere += 1
        self._advance()

    def _advance(self) -> None:
        self._version += 1
        self._news.set()
        self._news = asyncio.Event()
