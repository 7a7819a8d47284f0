"""A service's database: units of work that are durable when they return, and consistent reads."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Final, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventstream import migrate
from eventstream.backend import Backend, backend_of
from eventstream.errors import DatabaseBusyError, DatabaseClosedError, StorageUnavailableError
from eventstream.steps import UNNAMED, Failpoint, Step
from eventstream.writer import Unit, Writer

_T = TypeVar("_T")

_READ_PATIENCE: Final = timedelta(seconds=5)
_WAITING_LIMIT: Final = 4096  # units that may wait for the writer


class Database:
    """One writer thread, one reader thread, and a version that says when to look again.

    Belongs to the event loop that opened it. Units and queries are plain functions of a SQLAlchemy
    connection; they run on a thread, and what they return must not refer to the connection.

    State: `_version`, `_elsewhere`, `_changed`, `_heard`, `_watchers` and `_closed`, all on the
    loop's thread.
    """

    def __init__(self, backend: Backend) -> None:
        self._version = 0
        self._elsewhere = 0
        self._changed = asyncio.Event()
        self._heard = asyncio.Event()
        self._watchers = 0
        self._closed = False
        loop = asyncio.get_running_loop()
        failpoint = Failpoint.from_env(os.environ)
        self._writer = Writer(backend, loop, self._advance, self._hear, failpoint)
        self._reader = _Reader(backend)
        self._reading = ThreadPoolExecutor(1, "database-reader")
        self._listening = loop.create_task(backend.listen(self._hear), name="database-listener")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, migrations: str | None = None) -> AsyncIterator[Self]:
        """Open the database at `url`, create it where there is none, and close it at the end.

        `migrations` names a folder of Alembic's as "package:folder"; what is due there is run
        first, by one process at a time. Raises StorageUnavailableError where the database can't
        be used, and ConfigError where the URL is none of SQLite or PostgreSQL, or where somebody
        else must create the database.
        """
        backend = backend_of(url)
        await backend.ready()
        if migrations is not None:
            await asyncio.to_thread(migrate.upgrade, url, migrations)
        database = cls(backend)
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

        This process's commits are noticed at once, those of others within about 10 ms, but on
        SQLite within 250 ms after another has opened the database, or from a program that does so
        without a `Database`; on PostgreSQL not from such a program, and while the server is away
        when it is back. A commit may count twice. Take `version` before reading what it is about.
        Raises DatabaseClosedError.
        """
        with self._watching():
            while self._version <= seen:
                self._check_open()
                await self._changed.wait()
        return self._version

    @property
    def elsewhere(self) -> int:
        """A number that grows with every commit of another process that this one knows of."""
        return self._elsewhere

    async def changed_elsewhere(self, seen: int) -> int:
        """Wait until `elsewhere` is beyond `seen` and return it; as `changed`, in all else.

        For what this process need not read to know, where it has written it itself.
        """
        with self._watching():
            while self._elsewhere <= seen:
                self._check_open()
                await self._heard.wait()
        return self._elsewhere

    async def aclose(self) -> None:
        """Refuse new work, finish what is queued and release the threads; may be repeated."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._heard.set()
        self._listening.cancel()
        await asyncio.wait([self._listening])
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

    def _hear(self) -> None:
        self._elsewhere += 1
        self._heard.set()
        self._heard = asyncio.Event()
        self._advance()


class _Reader:
    """The reader thread's connection; reopened after a failure of the storage."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._engine = backend.reading(_READ_PATIENCE)
        self._connection: Connection | None = None

    def run(self, query: Callable[[Connection], _T]) -> _T:
        was_idle = self._connection is not None
        try:
            return self._run(query)
        except Exception as error:
            self.close()
            if not self._backend.is_unavailable(error):
                raise
            if was_idle and not self._backend.is_locked(error):
                return self.run(query)  # it may have broken while nobody used it
            raise StorageUnavailableError("the database can't be read now") from error

    def _run(self, query: Callable[[Connection], _T]) -> _T:
        if self._connection is None:
            self._connection = self._engine.connect()
        with self._connection.begin():
            return query(self._connection)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.close()
