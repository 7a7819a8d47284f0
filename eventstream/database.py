"""A service's database: units of work that are durable when they return, and consistent reads."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Final, Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from eventstream import migrate, sqlite
from eventstream.errors import DatabaseBusyError, DatabaseClosedError, StorageUnavailableError
from eventstream.presence import Presence
from eventstream.steps import UNNAMED, Failpoint, Step
from eventstream.writer import ATTEMPT, Unit, Writer

_T = TypeVar("_T")

_READ_PATIENCE: Final = timedelta(seconds=5)
_WAITING_LIMIT: Final = 4096  # units that may wait for the writer


class Database:
    """One writer thread, one reader thread, and a version that says when to look again.

    Belongs to the event loop that opened it. Units and queries are plain functions of a SQLAlchemy
    connection; they run on a thread, and what they return must not refer to the connection.

    State: `_version`, `_changed`, `_watchers` and `_closed`, all on the loop's thread.
    """

    def __init__(self, writing: Engine, reading: Engine, presence: Presence) -> None:
        self._version = 0
        self._changed = asyncio.Event()
        self._watchers = 0
        self._closed = False
        loop = asyncio.get_running_loop()
        failpoint = Failpoint.from_env(os.environ)
        self._writer = Writer(writing, presence, loop, self._advance, failpoint)
        self._reader = _Reader(reading)
        self._reading = ThreadPoolExecutor(1, "database-reader")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, migrations: str | None = None) -> AsyncIterator[Self]:
        """Open the database at `url`, create it where there is none, and close it at the end.

        `migrations` names a folder of Alembic's as "package:folder"; what is due there is run
        first, by one process at a time. Raises StorageUnavailableError where the file can't be
        opened and NotImplementedError for a database other than SQLite.
        """
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            raise NotImplementedError(f"no support for {parsed.get_backend_name()} yet")
        sqlite.file_of(parsed).parent.mkdir(parents=True, exist_ok=True)
        if migrations is not None:
            await asyncio.to_thread(migrate.upgrade, parsed, migrations)
        database = cls(
            sqlite.writing_engine(parsed, ATTEMPT),
            sqlite.reading_engine(parsed, _READ_PATIENCE),
            Presence.beside(sqlite.file_of(parsed)),
        )
        try:
            await database.read(lambda _: None)
            yield database
        finally:
            await database.aclose()

    async def write(self, unit: Callable[[Connection], _T], *, step: Step = UNNAMED) -> _T:
        """Run `unit` in a transaction and return what it returned once that is durable.

        `step` names it for whoever wants a crash there.

        An exception of the unit undoes the unit and is raised here. A caller that is cancelled
        does not undo it: it runs and commits all the same. Raises StorageUnavailableError where
        the storage failed, DatabaseBusyError where too many wait, DatabaseClosedError.
        """
        self._check_open()
        if self._writer.pending >= _WAITING_LIMIT:
            raise DatabaseBusyError(f"{self._writer.pending} units wait for the database")
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._writer.submit(Unit(unit, future, step))
        return await future

    async def read(self, query: Callable[[Connection], _T]) -> _T:
        """Run `query` on one consistent snapshot that contains every unit that has returned.

        Raises StorageUnavailableError and DatabaseClosedError.
        """
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self._reader.run, query)

    @property
    def version(self) -> int:
        """A number that grows with every commit that this process knows of."""
        return self._version

    async def changed(self, seen: int) -> int:
        """Wait until `version` is beyond `seen` and return it.

        This process's commits are noticed at once, those of others within about 10 ms, but within
        250 ms after another has opened the database, or from a program that does so without a
        `Database`. A commit may count twice. Take `version` before reading what it is about.
        Raises DatabaseClosedError.
        """
        with self._watching():
            while self._version <= seen:
                self._check_open()
                await self._changed.wait()
        return self._version

    async def aclose(self) -> None:
        """Refuse new work, finish what is queued and release the threads; may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        await self._writer.stop()
        await asyncio.get_running_loop().run_in_executor(self._reading, self._reader.close)
        self._reading.shutdown()

    @contextmanager
    def _watching(self) -> Iterator[None]:
        self._watchers += 1
        if self._watchers == 1:
            self._writer.watch(others=True)
        try:
            yield
        finally:
            self._watchers -= 1
            if self._watchers == 0:
                self._writer.watch(others=False)

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseClosedError("the database is closed")

    def _advance(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()


class _Reader:
    """The reader thread's connection; reopened after a failure of the storage."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def run(self, query: Callable[[Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._connection.begin():
                return query(self._connection)
        except DBAPIError as error:
            self.close()
            if sqlite.is_unavailable(error):
                raise StorageUnavailableError("the database can't be read now") from error
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()
