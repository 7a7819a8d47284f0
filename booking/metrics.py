"""What booking measures of itself: sagas that have not ended. Every instance says the same."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

from prometheus_client import Gauge

from booking.domain import Step
from eventstream import DatabaseClosedError, StorageUnavailableError

UNFINISHED: Final = Gauge(
    "booking_unfinished_sagas", "Sagas of all instances that have not ended", ["step"]
)
OLDEST: Final = Gauge(
    "booking_oldest_saga_seconds", "Age of the oldest saga that has not ended", ["step"]
)
COUNT_EVERY: Final = timedelta(seconds=5)


class Counting(Protocol):
    """Stored sagas, counted."""

    async def unfinished_by_step(self) -> Mapping[Step, tuple[int, datetime]]:
        """How many sagas have not ended, and since when the oldest runs, by step."""
        ...


async def count_unfinished(
    sagas: Counting, clock: Callable[[], datetime], every: timedelta = COUNT_EVERY
) -> None:
    """Count now and then, until the database is closed."""
    with suppress(DatabaseClosedError):
        while True:
            with suppress(StorageUnavailableError):  # others say so; the last count stays
                _set(await sagas.unfinished_by_step(), clock())
            await asyncio.sleep(every.total_seconds())


def _set(found: Mapping[Step, tuple[int, datetime]], now: datetime) -> None:
    for step in Step:
        count, oldest = found.get(step, (0, now))
        if step is not Step.FINISHED:
            UNFINISHED.labels(step.value).set(count)
            OLDEST.labels(step.value).set(max(0.0, (now - oldest).total_seconds()))
