import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime, timedelta

import pytest
from sqlalchemy import Connection, func, insert, select

from eventstream import Database, Lease, LeaseLostError
from schedule.clock import SystemClock
from schedule.domain import Flight
from schedule.tables import flight, hold, leases, outbox, request, timetable_day
from schedule.timetable import window
from schedule.window import DAYS, HOME, Window, midnight
from schedule.window_store import SqlWindowStore, loaded
from tests.schedule.conftest import database
from tests.schedule.samples import NOW, TODAY, Daily, FixedClock, sample

TTL = timedelta(seconds=1)


def unfenced(_: Connection) -> None:
    """A fence that lets every unit through."""


@asynccontextmanager
async def running(job: asyncio.Task[object]) -> AsyncIterator[None]:
    """Cancel a job at the end."""
    try:
        yield
    finally:
        job.cancel()
        with suppress(asyncio.CancelledError):
            await job


async def count(db: Database) -> int:
    """How many flights there are."""
    return await db.read(lambda c: c.execute(select(func.count()).select_from(flight)).scalar_one())


async def newest(db: Database) -> int:
    """The number of the newest event; -1 before the history begins."""
    head = await db.read(outbox.head)
    return head.seq if head else -1


async def test_the_first_window_is_there_before_the_history(database_url: str) -> None:
    """The first load makes no events: the history begins with the whole window."""
    async with database(database_url) as db:
        daily = Daily(20)
        before = await newest(db)
        await Window(SqlWindowStore(db, unfenced), daily, FixedClock()).roll(TODAY)

        assert before == -1
        assert daily.asked == window(TODAY, DAYS)
        assert (await count(db), await newest(db)) == (20 * DAYS, 0)


async def test_a_second_roll_on_the_same_day_does_nothing(db: Database) -> None:
    """What is there is not asked for again."""
    daily = Daily(2)
    rolling = Window(SqlWindowStore(db, unfenced), daily, FixedClock())
    await rolling.roll(TODAY)
    asked, seq = len(daily.asked), await newest(db)
    await rolling.roll(TODAY)

    assert (len(daily.asked), await newest(db)) == (asked, seq)


async def test_the_window_rolls_at_midnight_in_new_york(db: Database) -> None:
    """At midnight a day is added and the flights that arrived before it leave, by events."""
    clock = FixedClock()
    daily = Daily(20)
    rolling = Window(SqlWindowStore(db, unfenced), daily, clock)
    async with running(asyncio.create_task(rolling.keep())):
        await event(db, 20 * DAYS)
        clock.advance(midnight(TODAY + timedelta(days=1)) - NOW - timedelta(seconds=1))
        before = await newest(db)
        clock.advance(timedelta(seconds=1))
        leaving = 17  # of 20 flights, hourly from 01:00 on and 6 hours long
        await event(db, before + 20 + leaving)

    assert daily.asked[-1] == TODAY + timedelta(days=DAYS)
    assert await count(db) == 20 * DAYS + 20 - leaving


async def event(db: Database, seq: int) -> None:
    """Wait until there are that many events."""
    async with asyncio.timeout(30):
        seen = db.version
        while await newest(db) != seq:
            seen = await db.changed(seen)


async def test_days_with_a_clock_change_are_whole_days() -> None:
    """The day on which clocks go forward has 23 hours, the one on which they go back 25."""

    def hours(day: date) -> float:
        return (midnight(day + timedelta(days=1)) - midnight(day)) / timedelta(hours=1)

    assert [hours(date(2027, 3, 13 + n)) for n in range(3)] == [24, 23, 24]
    assert hours(date(2026, 11, 1)) == 25


class KilledError(Exception):
    """As if the process was killed."""


class Interrupted:
    """A fence that lets so many units through and then stops the process."""

    def __init__(self, units: int) -> None:
        self._left = units

    def __call__(self, _: Connection) -> None:
        """Let the unit through, or not."""
        self._left -= 1
        if self._left < 0:
            raise KilledError


@pytest.mark.parametrize("units", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("begun", [False, True])
async def test_an_interrupted_load_goes_on_where_it_was(
    database_url: str, units: int, *, begun: bool
) -> None:
    """A load that was cut off anywhere is completed by the next one, without any flight twice."""
    async with database(database_url) as db:
        if begun:
            await db.write(outbox.start_epoch)
        daily = Daily(600)
        days = window(TODAY, 2)
        store = SqlWindowStore(db, Interrupted(units))
        with suppress(KilledError):
            await add(store, daily, days)
        await add(SqlWindowStore(db, unfenced), daily, days)

        assert await count(db) == 1200
        assert await newest(db) == (1200 if begun else -1)


async def add(store: SqlWindowStore, daily: Daily, days: Sequence[date]) -> None:
    """Add what is missing."""
    for day, flights in daily(await store.missing(days)):
        await store.add(day, flights, NOW)


async def test_two_instances_load_once(database_url: str) -> None:
    """Of two instances that start at once one loads; both are warm when everything is there."""
    async with database(database_url) as first, database(database_url) as second:
        daily = Daily(100)
        jobs = [lead(db, holder, daily) for db, holder in ((first, "one"), (second, "two"))]
        async with running(jobs[0]), running(jobs[1]):
            async with asyncio.timeout(30):
                await asyncio.gather(loaded(first), loaded(second))

            assert len(daily.asked) == DAYS
            assert await count(second) == 100 * DAYS


def lead(db: Database, holder: str, daily: Daily) -> asyncio.Task[object]:
    """Keep the window under a lease, as the service does."""
    lease = Lease(db, leases, "timetable-window", holder, TTL)
    rolling = Window(SqlWindowStore(db, lease.check), daily, FixedClock())
    return asyncio.create_task(lease.lead(rolling.keep))


async def test_who_lost_the_lease_adds_nothing(db: Database) -> None:
    """A process that no longer leads is stopped by the next unit it wants to write."""
    lease = Lease(db, leases, "timetable-window", "one", TTL)
    with pytest.raises(LeaseLostError):
        await SqlWindowStore(db, lease.check).add(TODAY, [sample()], NOW)

    assert await count(db) == 0


async def test_a_day_without_flights_is_complete(db: Database) -> None:
    """A day on which nothing flies is not asked for again."""
    store = SqlWindowStore(db, unfenced)
    await store.add(TODAY, [], NOW)

    assert await store.missing([TODAY]) == []


async def test_what_is_old_is_forgotten(db: Database) -> None:
    """Old requests, settled holds and days go; a hold that is still held stays."""
    old = NOW - timedelta(days=100)
    state = {"saga_epoch": 1, "expire_time": old, "update_time": old}

    def fill(connection: Connection) -> None:
        connection.execute(
            insert(hold),
            [{"booking_id": f"bkg_{n}", "state": n, **state} for n in (1, 2, 3, 4)],
        )
        row = {"request_id": "r", "fingerprint": "f", "create_time": old}
        connection.execute(insert(request), row)
        connection.execute(
            insert(timetable_day), {"day": old.date(), "flights": 1, "complete": True}
        )

    await db.write(fill)
    limit = NOW - timedelta(days=60)
    await SqlWindowStore(db, unfenced).forget(requests=limit, holds=limit, days=limit.date())
    left = await db.read(
        lambda c: [
            c.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (hold, request, timetable_day)
        ]
    )

    assert left == [1, 0, 0]


async def test_the_system_clock_waits_for_an_instant() -> None:
    """An instant that is over is not waited for, one that comes is reached."""
    clock = SystemClock()
    await clock.sleep_until(datetime(2000, 1, 1, tzinfo=HOME))
    soon = clock.now() + timedelta(milliseconds=20)
    await clock.sleep_until(soon)

    assert clock.now() >= soon


def test_samples_are_flights() -> None:
    """The synthetic timetable has distinct flights."""
    days = [flights for _, flights in Daily(5)(window(TODAY, 2))]
    found: list[Flight] = [one for flights in days for one in flights]

    assert len({one.flight_id for one in found}) == 10
