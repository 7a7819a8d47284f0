import asyncio
from contextlib import suppress
from datetime import timedelta

import pytest

from eventstream import Database, Lease, StorageUnavailableError
from schedule.leading import lead
from schedule.tables import leases

SOON = timedelta(milliseconds=10)


class Job:
    """Fails in a given way the first time, and then goes on. State: how often it was started."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure
        self._starts = 0
        self.works = asyncio.Event()

    async def run(self) -> None:
        """Do it."""
        self._starts += 1
        if self._starts == 1:
            raise self._failure
        self.works.set()
        await asyncio.Event().wait()


def lease(db: Database) -> Lease:
    """A lease of this test."""
    return Lease(db, leases, "job", "one", timedelta(milliseconds=60))


async def test_timed_work_outlives_a_failing_database(db: Database) -> None:
    """A job that the storage interrupted is started again."""
    job = Job(StorageUnavailableError("locked"))
    leading = asyncio.create_task(lead(lease(db), job.run, pause=SOON))
    try:
        await asyncio.wait_for(job.works.wait(), 10)
    finally:
        leading.cancel()
        with suppress(asyncio.CancelledError):
            await leading

    assert job.works.is_set()


async def test_a_defect_of_timed_work_is_not_hidden(db: Database) -> None:
    """Any other failure ends the job, and with it the process."""
    with pytest.raises(ZeroDivisionError):
        await lead(lease(db), Job(ZeroDivisionError()).run, pause=SOON)
