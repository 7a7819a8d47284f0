"""What goes wrong on a PostgreSQL server, provoked for real."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from eventstream import Database, StorageUnavailableError
from eventstream.postgres import _WRITE_LOCK
from tests.databases import Postgres, name_of
from tests.eventstream.conftest import METADATA, names, put

ROOT = Path(__file__).parents[2]
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
AS 'BEGIN PERFORM pg_sleep(20); RETURN NULL; END'
"""
DEFERRED = """
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON thing
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()
"""
HOLDS = """
import asyncio, sys
from eventstream import Database, StorageUnavailableError
from tests.eventstream.conftest import put

def unit(connection):
    put(connection, "frozen")
    print("holds", flush=True)
    sys.stdin.readline()
    put(connection, "frozen too")

async def main(url):
    async with Database.open(url) as db:
        try:
            await db.write(unit)
        except StorageUnavailableError:
            print("refused", flush=True)
        await db.write(lambda c: put(c, "thawed"))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def engine() -> str:
    """Return the only engine that these tests are about."""
    return "postgres"


@pytest.fixture
def name(url: str) -> str:
    """Return the name of the test's database."""
    return name_of(url)


@pytest.fixture
async def impatient(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Return a database whose units and reads wait for half a second."""
    half = timedelta(seconds=0.5)
    monkeypatch.setattr("eventstream.writer._PATIENCE", half)
    monkeypatch.setattr("eventstream.database._READ_PATIENCE", half)
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        yield db


def sleeping(server: Postgres, database: str) -> None:
    """Wait until a session of the database sleeps."""
    asked = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = %s"
    with server.connect() as connection:
        while not connection.execute(asked, [database]).rowcount:
            time.sleep(0.01)


def freezable(url: str) -> "subprocess.Popen[str]":
    """Start a process that holds the write lock until it is told to go on."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT}/gen"},
    )


async def test_sessions_that_were_killed_while_idle_are_not_missed(
    db: Database, postgres: Postgres, name: str
) -> None:
    """The next unit and the next read connect again, and nobody is told of an error."""
    await db.read(names)
    killed = [postgres.terminate(name, role) for role in ("writer", "reader")]
    await db.write(partial(put, name="a"))

    assert killed == [1, 1]
    assert await db.read(names) == ["a"]


async def test_a_session_killed_in_a_unit_takes_the_unit_along(
    db: Database, postgres: Postgres, name: str
) -> None:
    """The unit is unavailable, nothing of it is there, and the next one works."""

    def unit(connection: Connection) -> None:
        put(connection, "a")
        postgres.terminate(name, "writer")
        put(connection, "b")

    with pytest.raises(StorageUnavailableError):
        await db.write(unit)

    assert await db.write(partial(put, name="c")) == 1
    assert await db.read(names) == ["c"]


async def test_a_session_killed_in_its_commit_is_an_unknown_outcome(
    db: Database, postgres: Postgres, name: str
) -> None:
    """Whoever waits for the commit is told that it is unknown; here nothing was committed."""

    def slow_commit(connection: Connection) -> None:
        connection.execute(text(SLOW))
        connection.execute(text(DEFERRED))

    await db.write(slow_commit)
    writing = asyncio.create_task(db.write(partial(put, name="a")))
    await asyncio.to_thread(sleeping, postgres, name)
    postgres.terminate(name, "writer")
    outcome = (await asyncio.gather(writing, return_exceptions=True))[0]

    assert isinstance(outcome, StorageUnavailableError)
    assert await db.read(names) == []


async def test_a_database_that_another_program_locks_is_unavailable_for_a_bounded_time(
    impatient: Database, postgres: Postgres, name: str
) -> None:
    """Units that wait for the write lock fail together; reads go on, and so do units after it."""
    with postgres.holding(name, f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})"):
        started = time.monotonic()
        outcomes = await asyncio.gather(
            *(impatient.write(partial(put, name=f"n{n}")) for n in range(100)),
            return_exceptions=True,
        )
        took = time.monotonic() - started
        seen = await impatient.read(names)
    after = await impatient.write(partial(put, name="a"))

    assert {type(outcome) for outcome in outcomes} == {StorageUnavailableError}
    assert took < 10  # one patience, and no hundred of them
    assert seen == []
    assert after == 1


async def test_a_table_that_another_program_locks_is_unavailable_for_a_bounded_time(
    impatient: Database, postgres: Postgres, name: str
) -> None:
    """Units and reads of it fail, each within its patience; afterwards they work."""
    with postgres.holding(name, "LOCK TABLE thing IN ACCESS EXCLUSIVE MODE"):
        started = time.monotonic()
        outcomes = await asyncio.gather(
            impatient.write(partial(put, name="a")), impatient.read(names), return_exceptions=True
        )
        took = time.monotonic() - started
    await impatient.write(partial(put, name="b"))

    assert [type(outcome) for outcome in outcomes] == [StorageUnavailableError] * 2
    assert took < 10  # one patience, and no hundred of them
    assert await impatient.read(names) == ["b"]


async def test_a_frozen_process_does_not_keep_the_lock_and_wakes_up_harmless(
    db: Database, url: str
) -> None:
    """SIGSTOP in a unit: others go on within the patience, what it had written is gone."""
    frozen = freezable(url)
    assert frozen.stdout
    while await asyncio.to_thread(frozen.stdout.readline) != "holds\n":
        pass
    frozen.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    await db.write(partial(put, name="other"))
    took = time.monotonic() - started
    frozen.send_signal(signal.SIGCONT)
    said, _ = await asyncio.to_thread(frozen.communicate, "go on\n")

    print(f"another process wrote {took:.1f} s after the holder of the lock was frozen")
    assert took < 15
    assert "refused" in said
    assert frozen.returncode == 0
    assert await db.read(names) == ["other", "thawed"]


async def test_a_read_only_database_refuses_units_and_can_be_read(
    db: Database, postgres: Postgres, name: str
) -> None:
    """As a standby after a failover does; once it may be written again, it is."""
    with postgres.connect() as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        postgres.terminate(name, "writer")
        with pytest.raises(StorageUnavailableError):
            await db.write(partial(put, name="a"))
        seen = await db.read(names)
        connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await db.write(partial(put, name="b"))

    assert seen == []
    assert await db.read(names) == ["b"]


async def test_a_commit_is_seen_by_who_was_deaf_meanwhile(
    db: Database, url: str, postgres: Postgres, name: str
) -> None:
    """The listener connects again after its session was killed, and tells of what it missed."""
    async with Database.open(url) as other:
        await db.changed(0)
        seen = db.version
        postgres.terminate(name, "listener")
        await other.write(partial(put, name="a"))
        async with asyncio.timeout(30):
            while await db.read(names) != ["a"]:
                seen = await db.changed(seen)
        await asyncio.sleep(1)
        seen = db.version
        await other.write(partial(put, name="b"))
        async with asyncio.timeout(30):
            later = await db.changed(seen)

    assert later > seen
