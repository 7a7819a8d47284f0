import asyncio
import threading
from functools import partial
from typing import Never

import pytest
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import IntegrityError

from eventstream import Database, DatabaseBusyError, DatabaseClosedError, StorageUnavailableError
from tests.databases import ON_SQLITE
from tests.eventstream.conftest import METADATA, THINGS, names, put


class Gate:
    """A unit that holds the writer until it is opened, so that a group forms behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, _connection: Connection) -> None:
        """Wait."""
        self.entered.set()
        assert self.open.wait(10)


async def test_a_unit_is_durable_and_seen_by_reads_when_write_returns(db: Database) -> None:
    """What a unit wrote is there for the next read, and its result is returned."""
    seq = await db.write(lambda c: put(c, "a"))

    assert seq == 1
    assert await db.read(names) == ["a"]


async def test_a_failing_unit_undoes_only_itself(db: Database) -> None:
    """Of a group, the unit that raises is rolled back and told; the others commit."""
    gate = Gate()
    held = asyncio.create_task(db.write(gate))
    await asyncio.to_thread(gate.entered.wait, 10)

    def fails(connection: Connection) -> None:
        put(connection, "half")
        raise LookupError("no such fare")

    group = [
        asyncio.create_task(db.write(lambda c: put(c, "a"))),
        asyncio.create_task(db.write(fails)),
        asyncio.create_task(db.write(lambda c: put(c, "a"))),
        asyncio.create_task(db.write(lambda c: put(c, "b"))),
    ]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(*group, return_exceptions=True)
    await held

    assert outcomes[0] == 1
    assert isinstance(outcomes[1], LookupError)
    assert isinstance(outcomes[2], IntegrityError)
    assert outcomes[3] == 2
    assert await db.read(names) == ["a", "b"]


async def test_a_group_whose_commit_fails_fails_every_unit_of_it(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deferred constraint that breaks at the commit is told to all units, and nothing is left."""
    monkeypatch.setattr("eventstream.writer._GROUP_SECONDS", 10.0)

    def deferred(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )

    await db.write(deferred)
    gate = Gate()
    held = asyncio.create_task(db.write(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
    group = [
        asyncio.create_task(db.write(lambda c: put(c, "a"))),
        asyncio.create_task(
            db.write(lambda c: c.exec_driver_sql("INSERT INTO child VALUES (7)").rowcount)
        ),
    ]
    await asyncio.sleep(0)
    gate.open.set()
    outcomes = await asyncio.gather(held, *group, return_exceptions=True)
    after = await db.write(lambda c: put(c, "b"))

    assert [type(outcome) for outcome in outcomes] == [IntegrityError] * 3
    assert after == 1
    assert await db.read(names) == ["b"]


async def test_a_cancelled_caller_does_not_undo_its_unit(db: Database) -> None:
    """A unit whose caller went away runs and commits all the same."""
    gate = Gate()
    held = asyncio.create_task(db.write(gate))
    await asyncio.to_thread(gate.entered.wait, 10)
    gone = asyncio.create_task(db.write(lambda c: put(c, "a")))
    await asyncio.sleep(0)
    gone.cancel()
    gate.open.set()
    await held
    await db.write(lambda c: put(c, "b"))

    assert gone.cancelled()
    assert await db.read(names) == ["a", "b"]


async def test_closing_finishes_what_is_queued(url: str) -> None:
    """Units that were accepted before the close are committed by it; later ones are refused."""
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        queued = [asyncio.create_task(db.write(partial(put, name=str(n)))) for n in range(100)]
        await asyncio.sleep(0)
        await db.aclose()
        await db.aclose()
        with pytest.raises(DatabaseClosedError):
            await db.write(names)
    numbers = await asyncio.gather(*queued)
    async with Database.open(url) as again:
        count = await again.read(lambda c: c.scalar(select(func.count()).select_from(THINGS)))

    assert numbers == list(range(1, 101))
    assert count == 100


async def test_a_read_is_one_snapshot(db: Database) -> None:
    """A query that reads twice sees the same although a commit happened in between."""
    await db.write(lambda c: put(c, "a"))
    between, committed = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[list[str], list[str]]:
        before = names(connection)
        between.set()
        assert committed.wait(10)
        return before, names(connection)

    reading = asyncio.create_task(db.read(twice))
    await asyncio.to_thread(between.wait, 10)
    await db.write(lambda c: put(c, "b"))
    committed.set()
    before, after = await reading

    assert before == after == ["a"]


async def test_reads_cannot_write(db: Database) -> None:
    """A query that changes something is refused."""
    with pytest.raises(StorageUnavailableError):
        await db.read(lambda c: put(c, "a"))

    assert await db.read(names) == []


@ON_SQLITE
async def test_commits_are_full_and_foreign_keys_hold(db: Database) -> None:
    """The pragmas that durability and integrity hang on are set on the writer's connection."""

    def pragmas(connection: Connection) -> list[object]:
        wanted = ("journal_mode", "synchronous", "foreign_keys")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted]

    assert await db.write(pragmas) == ["wal", 2, 1]


async def test_a_waiter_is_woken_by_a_commit_of_this_process(db: Database) -> None:
    """`changed` returns once a unit has committed, with a version that is beyond the one seen."""
    seen = db.version
    waiting = asyncio.create_task(db.changed(seen))
    await asyncio.sleep(0)
    await db.write(lambda c: put(c, "a"))

    assert await waiting > seen


async def forever(db: Database) -> Never:
    """Wait for every change; PostgreSQL's listener tells of one once it listens."""
    seen = db.version
    while True:
        seen = await db.changed(seen)


async def test_waiting_ends_when_the_database_closes(url: str) -> None:
    """A reader that waits for changes is told that there will be none."""
    async with Database.open(url) as db:
        waiting = asyncio.create_task(forever(db))
        await asyncio.sleep(0)
    outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]

    assert isinstance(outcome, DatabaseClosedError)


async def test_too_many_waiting_units_are_refused(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue to the writer is bounded; a unit beyond it is refused at once and never runs."""
    monkeypatch.setattr("eventstream.database._WAITING_LIMIT", 2)
    gate = Gate()
    held = asyncio.create_task(db.write(gate))
    queued = asyncio.create_task(db.write(lambda c: put(c, "a")))
    await asyncio.sleep(0)
    with pytest.raises(DatabaseBusyError):
        await db.write(lambda c: put(c, "b"))
    gate.open.set()
    await asyncio.gather(held, queued)

    assert await db.read(names) == ["a"]


async def test_an_error_of_a_statement_does_not_show_its_values(db: Database) -> None:
    """What a row says may be about a person, and errors go to the log."""

    def twice(connection: Connection) -> None:
        rows = [{"name": "Ann Lee", "version": 1}] * 2
        connection.execute(insert(THINGS).values(rows))

    with pytest.raises(IntegrityError) as caught:
        await db.write(twice)

    assert "Ann Lee" not in str(caught.value)
