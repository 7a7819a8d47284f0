"""What is SQLite's own: pragmas, transactions, and who else has committed.

The driver's habit of opening transactions by itself is off (`isolation_level = None`): a
transaction begins where SQLAlchemy says so. Writers begin IMMEDIATE, as a deferred transaction
that reads first can't become a writer once another process has committed.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from consulmesh.config import ConfigError
from eventstream.errors import StorageUnavailableError
from eventstream.presence import Presence

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
_UNAVAILABLE: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)
_PRIMARY: Final = 0xFF  # an extended result code holds the primary one in its low byte
_LOOK_EVERY: Final = 0.010  # seconds between looks for other processes' commits
_LOOK_ALONE: Final = 0.250  # the same while there is none, and between looks for one
_SECOND: Final = timedelta(seconds=1)
_CHECK: Final = 1.0  # seconds
_CHECK_STEPS: Final = 10_000  # of SQLite's virtual machine between two looks at the time

_log = structlog.get_logger()


class Sqlite:
    """A database in a file, its WAL beside it. Has no state of its own."""

    def __init__(self, url: URL) -> None:
        if url.database in {None, "", ":memory:"}:
            raise ConfigError(f"a durable stream needs a file: {url!r}")
        self._url = url
        self._file = Path(str(url.database))

    async def ready(self) -> None:
        """Create the folder, or refuse a damaged file; a new one is made by who connects first."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageUnavailableError(f"no folder for {self._file.name}") from error
        if self._file.exists():
            await asyncio.to_thread(self._check)

    def _check(self) -> None:
        """Look for damage of the structure, for a second at most: that is some 800 MB.

        SQLite has no checksums: what a row says is believed.
        """
        until = time.monotonic() + _CHECK
        with closing(sqlite3.connect(self._file, isolation_level=None)) as connection:
            connection.set_progress_handler(lambda: time.monotonic() > until, _CHECK_STEPS)
            try:
                [[found]] = connection.execute("PRAGMA quick_check(1)").fetchall()
            except sqlite3.DatabaseError as error:
                if _primary_code(error) != sqlite3.SQLITE_INTERRUPT:
                    raise StorageUnavailableError(f"{self._file.name}: {error}") from error
                _log.info("database_partly_checked", database=self._file.name)
                return
        if found != "ok":
            raise StorageUnavailableError(f"{self._file.name} is damaged: {found}")

    def writing(self, patience: timedelta) -> Engine:
        """Return an engine whose transactions begin IMMEDIATE."""
        return self._engine(patience, "BEGIN IMMEDIATE", "SAVEPOINT unit")

    def reading(self, patience: timedelta) -> Engine:
        """Return an engine whose transactions are deferred, and may not write."""
        engine = self._engine(patience, "BEGIN")
        event.listen(engine, "connect", _forbid_writing)
        return engine

    def _engine(self, patience: timedelta, *begin: str) -> Engine:
        engine = create_engine(
            self._url,
            poolclass=NullPool,
            connect_args={"timeout": patience / _SECOND},
            hide_parameters=True,  # an error goes to the log, the values of a statement may not
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None
            for pragma in _PRAGMAS:
                connection.execute(pragma)

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            for command in begin:
                connection.exec_driver_sql(command)

        return engine

    def mark(self, connection: Connection) -> None:
        """Move the savepoint here.

        By hand: SQLAlchemy compiles its own anew each time, which costs as much as a small unit.
        """
        connection.exec_driver_sql("RELEASE SAVEPOINT unit")
        connection.exec_driver_sql("SAVEPOINT unit")

    def undo(self, connection: Connection) -> None:
        """Go back to the savepoint."""
        connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unit")

    def is_sound(self, connection: Connection) -> bool:
        """False after errors that end the transaction: a full disk, no memory."""
        return _driver(connection).in_transaction

    def is_locked(self, error: BaseException) -> bool:
        """Whether it is SQLITE_BUSY."""
        return _primary_code(error) == sqlite3.SQLITE_BUSY

    def is_unavailable(self, error: BaseException) -> bool:
        """Whether the result code is one of the storage's."""
        return _primary_code(error) in _UNAVAILABLE

    def looks(self) -> "DataVersion":
        """Return what asks for SQLite's number of foreign commits."""
        return DataVersion(Presence.beside(self._file))

    async def listen(self, told: Callable[[], None]) -> None:
        """Return at once: SQLite tells nobody."""


class DataVersion:
    """Looks for other processes' commits, often only while there are other processes.

    State: `every`, `_presence_due`, and `_version` as it was last read on `_connection`.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._presence_due = 0.0
        self._connection: Connection | None = None
        self._version: int | None = None
        self.every = _LOOK_EVERY

    def changed(self, connection: Connection) -> bool:
        """Whether the number is another one; also on a new connection, which can't compare."""
        if (now := time.monotonic()) >= self._presence_due:
            self.every = _LOOK_ALONE if self._presence.alone() else _LOOK_EVERY
            self._presence_due = now + _LOOK_ALONE
        version = data_version(connection)
        if connection is self._connection and version == self._version:
            return False
        self._connection, self._version = connection, version
        return True

    def close(self) -> None:
        """Be present no longer."""
        self._connection = None
        self._presence.close()


def data_version(connection: Connection) -> int:
    """Return a number that changes when any other connection, of any process, has committed."""
    version: int = _driver(connection).execute("PRAGMA data_version").fetchone()[0]
    return version


def _forbid_writing(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only = ON")


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"not a connection of SQLite: {driver!r}")
    return driver


def _primary_code(error: BaseException) -> int | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    return code & _PRIMARY if isinstance(code, int) else None
