"""What booking does of its own accord, one instance at a time: follow schedule, and tidy up."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Never

import structlog

from booking import cancelled_flights, steps
from booking.tables import outbox
from eventstream import Database, Follower, Retention, SqlInbox, retry_forever, trim_forever
from flights.schedule.v1.schedule_pb2 import FlightEvent

_log = structlog.get_logger()

_LINGER: Final = timedelta(milliseconds=50)  # between two looks: a busy database commits all along
_TIDY_EVERY: Final = timedelta(hours=1)
_CANCELLED_KEPT: Final = timedelta(days=60)  # after the departure; longer than any saga


class TimedWork:
    """The work of the instance that holds the lease."""

    def __init__(
        self,
        db: Database,
        inbox: SqlInbox[FlightEvent],
        follower: Follower[FlightEvent],
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._inbox = inbox
        self._follower = follower
        self._clock = clock

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.run())
            group.create_task(retry_forever(self._inbox))
            group.create_task(self.affect_bookings())
            group.create_task(self._tidy_now_and_then())
            group.create_task(trim_forever(self._db, outbox, Retention()))

    async def affect_bookings(self) -> Never:
        """Mark the bookings of flights that were cancelled, as the news come."""
        while True:
            seen = self._db.version
            while flight_id := await self._db.read(cancelled_flights.pending_flight):
                unit = partial(cancelled_flights.affect, flight_id=flight_id, now=self._clock())
                count = await self._db.write(unit, step=steps.AFFECT)
                _log.info("bookings_affected", flight_id=flight_id, bookings=count)
            await asyncio.sleep(_LINGER.total_seconds())
            await self._db.changed(seen)

    async def tidy(self) -> int:
        """Forget flights that should have left long ago; returns how many."""
        before = self._clock() - _CANCELLED_KEPT
        unit = partial(cancelled_flights.forget, before=before)
        return await self._db.write(unit, step=steps.TIDY)

    async def _tidy_now_and_then(self) -> Never:
        while True:
            await self.tidy()
            await asyncio.sleep(_TIDY_EVERY.total_seconds())
