import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from eventstream import Database, SqlInbox, retry_forever
from flights.schedule.v1.schedule_pb2 import FlightEvent
from tests.eventstream import mirror
from tests.eventstream.conftest import NOW
from tests.eventstream.test_inbox import at, changed

SHORT = timedelta(milliseconds=10)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """Return a database without copies."""
    async with mirror.copy(database_url) as copy:
        yield copy


class World:
    """A clock that is set, and a cause of failure that goes away."""

    def __init__(self) -> None:
        self.now = NOW
        self.broken = True
        self.tries = 0

    def clock(self) -> datetime:
        """Return the instant that it is."""
        return self.now

    def apply(self, connection: Connection, event: FlightEvent) -> None:
        """Apply an event, unless it fails."""
        self.tries += 1
        if self.broken:
            raise LookupError("not yet")
        mirror.apply(connection, event)

    def inbox(self, db: Database) -> SqlInbox[FlightEvent]:
        """Return an inbox in this world."""
        return mirror.inbox(db, apply=self.apply, clock=self.clock, jitter=lambda: 0.5)


@asynccontextmanager
async def retrying(
    inbox: SqlInbox[FlightEvent], look_again: timedelta = timedelta(minutes=1)
) -> AsyncIterator[None]:
    """Run the job for a while."""
    job = asyncio.create_task(retry_forever(inbox, look_again=look_again))
    try:
        yield
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)


async def emptied(db: Database, inbox: SqlInbox[FlightEvent]) -> None:
    """Wait until there is no letter."""
    async with asyncio.timeout(30):
        seen = db.version
        while await inbox.dead_letters():
            seen = await db.changed(seen)


async def test_letters_are_applied_without_anybody_asking(db: Database) -> None:
    """Those that another process has left too, once they are due and the cause is gone."""
    world = World()
    left = world.inbox(db)
    await left.position()
    await left.apply([changed(name, 1, 10) for name in "abc"], at(3))
    world.broken = False
    world.now += timedelta(minutes=1)
    inbox = world.inbox(db)
    async with retrying(inbox):
        await emptied(db, inbox)

    assert sorted(await db.read(mirror.copied)) == ["a", "b", "c"]


async def test_a_letter_wakes_the_job(db: Database) -> None:
    """The job that sleeps until another letter is due looks anew when one comes."""
    world = World()
    inbox = world.inbox(db)
    await inbox.position()
    async with retrying(inbox):
        await inbox.apply([changed("a", 1, 10)], at(1))
        world.now += timedelta(seconds=90)
        await inbox.apply([changed("b", 1, 10)], at(2))
        async with asyncio.timeout(30):
            seen = db.version
            while (letters := await inbox.dead_letters())[0].attempts == 1:
                seen = await db.changed(seen)

    assert [(letter.key, letter.attempts) for letter in letters] == [("a", 2), ("b", 1)]


async def test_a_clock_that_is_set_is_noticed(db: Database) -> None:
    """The job looks again from time to time: what is due is not only a matter of sleeping."""
    world = World()
    inbox = world.inbox(db)
    await inbox.position()
    await inbox.apply([changed("a", 1, 10)], at(1))
    async with retrying(inbox, SHORT):
        world.broken = False
        world.now += timedelta(hours=2)
        await emptied(db, inbox)

    assert await db.read(mirror.copied) == {"a": (1, 10)}


async def test_many_letters_are_tried_in_several_units(db: Database) -> None:
    """None is left out, and none is tried twice because others failed again."""
    world = World()
    inbox = world.inbox(db)
    await inbox.position()
    await inbox.apply([changed(f"f{n:03}", 1, 10) for n in range(250)], at(250))
    world.now += timedelta(minutes=1)
    world.tries = 0
    left = await inbox.retry_due()
    letters = await inbox.dead_letters()

    assert left == 120
    assert world.tries == 250
    assert {letter.attempts for letter in letters} == {2}


async def test_the_job_outlives_a_defect(db: Database) -> None:
    """A statement that can't be run is told of, and tried again later."""
    world = World()
    inbox = world.inbox(db)
    await inbox.position()
    await inbox.apply([changed("a", 1, 10)], at(1))
    world.now += timedelta(minutes=1)
    world.broken = False
    await db.write(lambda c: c.execute(text("ALTER TABLE copy RENAME TO gone")))
    with capture_logs() as logs:
        async with retrying(inbox, SHORT):
            async with asyncio.timeout(30):
                while not _told(logs):  # noqa: ASYNC110 - a log tells nobody
                    await asyncio.sleep(0.005)
            await db.write(lambda c: c.execute(text("ALTER TABLE gone RENAME TO copy")))
            await emptied(db, inbox)

    assert await db.read(mirror.copied) == {"a": (1, 10)}


def _told(logs: Sequence[Mapping[str, object]]) -> bool:
    return any(line["event"] == "dead_letters_not_retried" for line in logs)


async def test_only_who_retries_counts_the_letters(db: Database) -> None:
    """A process that does not lead any more leaves no count that would stand for ever."""
    world = World()
    inbox = world.inbox(db)
    await inbox.position()
    await inbox.apply([changed("a", 1, 10)], at(1))
    count = REGISTRY.get_sample_value("eventstream_dead_letters", {"source": "flights"})
    async with retrying(inbox):
        await asyncio.sleep(0)

    assert count == 1
    assert REGISTRY.get_sample_value("eventstream_dead_letters", {"source": "flights"}) is None
