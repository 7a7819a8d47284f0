import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import MetaData, select, update

from eventstream import (
    Database,
    DatabaseBusyError,
    DatabaseClosedError,
    Lease,
    LeaseLostError,
    LeaseTable,
    StorageUnavailableError,
)

METADATA = MetaData()
TABLE = LeaseTable(METADATA)
TTL = timedelta(seconds=1)
LONG = timedelta(minutes=5)  # a lease that ends within no test
PATIENCE = 30  # seconds


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """Return a database with a table of leases."""
    async with Database.open(url) as database:
        await database.write(METADATA.create_all)
        yield database


class Job:
    """A job that runs until it is cancelled."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.stopped = asyncio.Event()

    async def __call__(self) -> None:
        """Run."""
        self.running.set()
        self.stopped.clear()
        try:
            await asyncio.Event().wait()
        finally:
            self.running.clear()
            self.stopped.set()


@asynccontextmanager
async def leading(lease: Lease, job: Job) -> AsyncIterator["asyncio.Task[None]"]:
    """Compete for a lease for a while."""
    task = asyncio.create_task(lease.lead(job))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_one_process_leads_and_the_next_takes_over_when_it_stops(db: Database) -> None:
    """While one leads the other waits; a lease that was given back is taken at once."""
    one, two = Job(), Job()
    first, second = Lease(db, TABLE, "sweep", "p-1", TTL), Lease(db, TABLE, "sweep", "p-2", TTL)
    async with leading(first, one) as leader:
        await one.running.wait()
        async with leading(second, two):
            await asyncio.sleep(2 * TTL.total_seconds())
            waited = not two.running.is_set()
            epochs = [first.epoch]
            leader.cancel()
            await asyncio.gather(leader, return_exceptions=True)
            holder = await db.read(lambda c: c.execute(select(TABLE.lease.c.holder)).scalar_one())
            async with asyncio.timeout(PATIENCE):
                await two.running.wait()
            epochs.append(second.epoch)

    assert waited
    assert holder in {"", "p-2"}
    assert one.stopped.is_set()
    assert epochs == [1, 2]


async def test_a_leader_that_died_is_replaced_after_the_time_to_live(url: str) -> None:
    """No beat for as long as the lease lives: another process takes it, with a higher epoch."""
    one, two = Job(), Job()
    loop = asyncio.get_running_loop()
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        async with Database.open(url) as other:
            dying = asyncio.create_task(Lease(other, TABLE, "sweep", "p-1", TTL).lead(one))
            await one.running.wait()
            await other.aclose()  # nothing of this process is written any more
            died = loop.time()
        async with leading(second := Lease(db, TABLE, "sweep", "p-2", TTL), two):
            async with asyncio.timeout(PATIENCE):
                await two.running.wait()
            took, epoch = loop.time() - died, second.epoch
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)

    assert TTL.total_seconds() <= took < TTL.total_seconds() + PATIENCE
    assert epoch == 2


async def test_a_process_that_comes_back_goes_on_at_once(db: Database) -> None:
    """Its old beat is no reason to wait: the holder's name is its own."""
    await db.write(
        lambda c: (
            c.execute(
                TABLE.lease.insert().values(name="sweep", holder="p-1", epoch=7, beat=3)
            ).rowcount
        )
    )
    job = Job()
    async with leading(lease := Lease(db, TABLE, "sweep", "p-1", LONG), job):
        async with asyncio.timeout(PATIENCE):
            await job.running.wait()
        epoch = lease.epoch

    assert epoch == 8


async def test_a_leader_whose_lease_was_taken_stops_its_job(db: Database) -> None:
    """The next beat finds another holder: the job is cancelled, and no unit of it passes."""
    job = Job()
    async with leading(lease := Lease(db, TABLE, "sweep", "p-1", TTL), job):
        await job.running.wait()
        await db.write(lease.check)
        await db.write(
            lambda c: c.execute(update(TABLE.lease).values(holder="p-2", epoch=2)).rowcount
        )
        with pytest.raises(LeaseLostError):
            await db.write(lease.check)
        async with asyncio.timeout(PATIENCE):
            await job.stopped.wait()

    assert lease.epoch is None


async def test_an_error_of_the_job_is_raised_and_the_lease_given_back(db: Database) -> None:
    """A failing job is not swallowed, and does not keep others waiting."""

    async def fails() -> None:
        raise LookupError("no timetable")

    with pytest.raises(LookupError, match="no timetable"):
        await Lease(db, TABLE, "sweep", "p-1", LONG).lead(fails)
    job = Job()
    async with (
        leading(Lease(db, TABLE, "sweep", "p-2", LONG), job),
        asyncio.timeout(PATIENCE),
    ):
        await job.running.wait()


async def test_errors_of_the_job_and_of_the_keeper_are_both_raised(db: Database) -> None:
    """Neither hides the other."""
    running = asyncio.Event()

    async def fails_in_the_end() -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise LookupError("no timetable")

    leading = asyncio.create_task(Lease(db, TABLE, "sweep", "p-1", TTL).lead(fails_in_the_end))
    await running.wait()
    await db.aclose()
    with pytest.raises(ExceptionGroup, match="sweep") as raised:
        await leading

    assert {type(error) for error in raised.value.exceptions} == {DatabaseClosedError, LookupError}


async def test_a_slow_leader_goes_on_while_nobody_takes_over(url: str) -> None:
    """Its beats wait for a locked database for twice their time to live; the job never stops."""
    job = Job()
    async with Database.open(url) as db:
        await db.write(METADATA.create_all)
        lease = Lease(db, TABLE, "sweep", "p-1", TTL)
        async with leading(lease, job), Database.open(url) as other:
            await job.running.wait()
            release = asyncio.Event()
            holding = asyncio.create_task(_hold(other, release))
            await asyncio.sleep(2 * TTL.total_seconds())
            release.set()
            await holding
            await db.write(lease.check)
            went_on = not job.stopped.is_set()

    assert went_on


async def _hold(db: Database, release: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    await db.write(lambda _: asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10))


class Failing:
    """A job that fails in a given way the first time, and then goes on."""

    def __init__(self, failure: Exception) -> None:
        self._failure: Exception | None = failure
        self.works = asyncio.Event()

    async def __call__(self) -> None:
        """Run."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        self.works.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "failure",
    [
        StorageUnavailableError("locked"),
        DatabaseBusyError("too many wait"),
        ExceptionGroup("tasks", [StorageUnavailableError("locked")]),
    ],
)
async def test_a_job_outlives_a_database_that_fails_for_a_while(
    db: Database, failure: Exception
) -> None:
    """A job that the storage interrupted is started again, also when it is a group of tasks."""
    job = Failing(failure)
    lease = Lease(db, TABLE, "sweep", "p-1", timedelta(milliseconds=60))
    task = asyncio.create_task(lease.lead(job))
    try:
        await asyncio.wait_for(job.works.wait(), PATIENCE)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert job.works.is_set()
