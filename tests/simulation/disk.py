"""One service's database in memory: it outlives the processes that use it.

Every unit is one transaction that begins and commits in one go, so a process can die before or
after it, never within: what was not committed is lost in either case.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Protocol, TypeVar

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event

from eventstream import Database
from eventstream.writer import UNIT

_T = TypeVar("_T")

SERVICES: Final = ("booking", "pricing", "schedule")


class Listener(Protocol):
    """A process that has the database open."""

    def committed(self) -> None:
        """Somebody else has committed."""


class Disk:
    """The database of a service; one at a time, as its connection is made once for all runs.

    State: `ill`, whether it fails now, and who has it open.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.ill = False
        self.listeners: list[Listener] = []
        self._connection = _connection(service)
        _driver(self._connection).deserialize(_empty(service))

    def run(self, unit: Callable[[Connection], _T], by: Listener | None = None) -> _T:
        """Run a unit of work and commit it; an exception of it undoes it."""
        with self._connection.begin():
            self._connection.info[UNIT] = unit
            value = unit(self._connection)
        for listener in self.listeners:
            if listener is not by:
                listener.committed()
        return value

    def query(self, query: Callable[[Connection], _T]) -> _T:
        """Run a query on what is committed."""
        with self._connection.begin() as transaction:
            value = query(self._connection)
            transaction.rollback()
        return value

    def save(self, file: Path) -> None:
        """Write it to a file that SQLite can open."""
        file.write_bytes(_driver(self._connection).serialize())


def prepare() -> None:
    """Make what every run begins with, by the services' own migrations: once in a process."""
    for service in SERVICES:
        _empty(service)


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"not a connection of SQLite: {driver!r}")
    return driver


@cache
def _connection(_service: str) -> Connection:
    """The one connection: compiled statements are kept from run to run."""
    return _engine().connect()


def _engine() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        _driver(connection).execute("BEGIN IMMEDIATE")

    return engine


@cache
def _empty(service: str) -> bytes:
    """A database with the tables of the service and nothing in them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{service}.db"
        asyncio.run(_migrate(file, service))
        source = sqlite3.connect(file)
        source.execute("PRAGMA journal_mode = DELETE")  # one in memory has no WAL
        image = source.serialize()
        source.close()
    return image


async def _migrate(file: Path, service: str) -> None:
    async with Database.open(f"sqlite:///{file}", migrations=f"{service}:migrations"):
        pass
