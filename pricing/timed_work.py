"""What pricing does of its own accord, one instance at a time: follow, re-price, tidy up."""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Never

import structlog
from sqlalchemy import Connection

from eventstream import (
    Database,
    Follower,
    Retention,
    SqlInbox,
    Step,
    retry_forever,
    trim_forever,
)
from flights.schedule.v1.schedule_pb2 import FlightEvent
from pricing import tables
from pricing.service import Clock, Pricing
from pricing.store import SqlRepository

_LINGER: Final = timedelta(milliseconds=50)  # between two looks: a busy database commits all along
_TIDY_EVERY: Final = timedelta(hours=1)
# After a quote has run out. A claim, and the tombstone that it may be, outlives any saga, as
# schedule's holds do; the price of a booking is the booking's by then.
_UNCLAIMED_KEPT: Final = timedelta(days=2)
_CLAIMED_KEPT: Final = timedelta(days=60)
_REQUESTS_KEPT: Final = timedelta(days=7)
_TIDIED_AT_A_TIME: Final = 500

TIDY_REQUESTS: Final = Step("pricing.tidy_requests")
TIDY_QUOTES: Final = Step("pricing.tidy_quotes")

_log = structlog.get_logger()


class TimedWork:
    """The work of the instance that holds the lease."""

    def __init__(
        self,
        database: Database,
        pricing: Pricing,
        inbox: SqlInbox[FlightEvent],
        follower: Follower[FlightEvent],
        now: Clock,
    ) -> None:
        self._database = database
        self._pricing = pricing
        self._inbox = inbox
        self._follower = follower
        self._now = now

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follower.run())
            group.create_task(retry_forever(self._inbox))
            group.create_task(self.reprice())
            group.create_task(self.follow_fares())
            group.create_task(self._tidy_now_and_then())
            group.create_task(trim_forever(self._database, tables.outbox, Retention()))

    async def reprice(self) -> Never:
        """Re-price each flight when it is due, at its own time of day."""
        while True:
            seen = self._database.version
            if count := await self._pricing.reprice():
                _log.debug("repriced", flights=count)
            else:
                await self._until(await self._database.read(_next_due), seen)

    async def follow_fares(self) -> Never:
        """Re-price the flights of routes whose fares have changed, a slice at a time."""
        while True:
            seen = self._database.version
            if not await self._pricing.follow_fare():
                await self._until(None, seen)

    async def _until(self, due: datetime | None, seen: int) -> None:
        """Wait for an instant, or for a change of the database."""
        patience = None if due is None else (due - self._now()).total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.sleep(_LINGER.total_seconds())
                await self._database.changed(seen)

    async def _tidy_now_and_then(self) -> Never:
        while True:
            await self.tidy()
            await asyncio.sleep(_TIDY_EVERY.total_seconds())

    async def tidy(self) -> int:
        """Forget what nobody needs any more, quotes in short units; returns how many of them."""
        now, forgotten = self._now(), 0
        await self._database.write(
            lambda connection: SqlRepository(connection).forget_fare_requests(now - _REQUESTS_KEPT),
            step=TIDY_REQUESTS,
        )
        while part := await self._database.write(
            lambda connection: SqlRepository(connection).forget_quotes(
                unclaimed=now - _UNCLAIMED_KEPT,
                claimed=now - _CLAIMED_KEPT,
                limit=_TIDIED_AT_A_TIME,
            ),
            step=TIDY_QUOTES,
        ):
            forgotten += part
        return forgotten


def _next_due(connection: Connection) -> datetime | None:
    return SqlRepository(connection).next_due()
