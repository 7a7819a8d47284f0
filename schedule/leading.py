"""Timed work that one of several instances does, whatever happens to the database meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Never

import structlog

from eventstream import DatabaseBusyError, Lease, StorageUnavailableError

PAUSE = timedelta(seconds=1)

_log = structlog.get_logger()


async def lead(
    lease: Lease, job: Callable[[], Awaitable[None]], *, pause: timedelta = PAUSE
) -> Never:
    """Do a job for ever while this process holds the lease.

    A database that can't be used for a while interrupts the job and does not end it; any other
    failure does.
    """
    while True:
        try:
            await lease.lead(job)
        except (StorageUnavailableError, DatabaseBusyError) as error:
            _log.warning("timed_work_interrupted", error=str(error))
            await asyncio.sleep(pause.total_seconds())
