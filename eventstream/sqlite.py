"""What is SQLite's own: pragmas, transactions, and who else has committed.

The driver's habit of opening transactions by itself is off (`isolation_level = None`): a
transaction begins where SQLAlchemy says so. Writers begin IMMEDIATE, as a deferred transaction
that reads first can't become a writer once another process has committed.
"""

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

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


def writing_engine(url: URL, patience: timedelta) -> Engine:
    """Return an engine whose transactions hold the write lock from their beginning.

    `patience` is how long one attempt waits for that lock.
    """
    return _engine(url, patience, "BEGIN IMMEDIATE")


def reading_engine(url: URL, patience: timedelta) -> Engine:
    """Return an engine whose transactions each read one snapshot and can't write."""
    return _engine(url, patience, "BEGIN", "PRAGMA query_only = ON")


def _engine(url: URL, patience: timedelta, begin: str, *pragmas: str) -> Engine:
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args={"timeout": patience / _SECOND},
        hide_parameters=True,  # an error goes to the log, the values of a statement may not
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


_SECOND: Final = timedelta(seconds=1)


def data_version(connection: Connection) -> int:
    """Return a number that changes when any other connection, of any process, has committed."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"not a connection of SQLite: {driver!r}")
    version: int = driver.execute("PRAGMA data_version").fetchone()[0]
    return version


def is_locked(error: DBAPIError) -> bool:
    """Whether another connection held the lock for longer than this one waits."""
    return _primary_code(error.orig) == sqlite3.SQLITE_BUSY


def is_unavailable(error: BaseException) -> bool:
    """Whether the storage failed, as opposed to the statement."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return _primary_code(cause) in _UNAVAILABLE


def _primary_code(error: BaseException | None) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code & _PRIMARY if isinstance(code, int) else None


def file_of(url: URL) -> Path:
    """Return the file that holds the database; its WAL is beside it."""
    if url.database in {None, "", ":memory:"}:
        raise ValueError(f"a durable stream needs a file: {url!r}")
    return Path(str(url.database))
