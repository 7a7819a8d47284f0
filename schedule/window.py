"""Keeps the timetable's window: the next 30 days are there, what is past has left.

The first window is loaded before the history begins: readers take it as a snapshot. From then on
flights come and go as events. Runs in one process at a time, and goes on where it was interrupted.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Never, Protocol
from zoneinfo import ZoneInfo

import structlog

from schedule.clock import Clock
from schedule.domain import Flight
from schedule.timetable import window

DAYS = 30
HOME: Final = ZoneInfo("America/New_York")  # where all outbound flights leave
REQUESTS_KEPT = timedelta(days=7)
HOLDS_KEPT = timedelta(days=60)  # longer than a booking can be about a flight in the window

_log = structlog.get_logger()

FlightsOf = Callable[[Sequence[date]], Iterator[tuple[date, list[Flight]]]]
"""The flights of each of these days; blocks."""


class WindowStore(Protocol):
    """The window as stored; what is added once the history has begun is published."""

    async def missing(self, days: Sequence[date]) -> list[date]:
        """Those of the days that are not wholly there."""

    async def add(self, day: date, flights: Sequence[Flight], at: datetime) -> None:
        """Add the flights of a day that are not there yet, in batches."""

    async def begin(self) -> None:
        """Begin the history, unless it has begun."""

    async def remove_past(self, before: datetime, at: datetime) -> int:
        """Remove the flights that arrived before that, in batches; returns how many."""

    async def forget(self, *, requests: datetime, holds: datetime, days: date) -> None:
        """Remove requests and settled holds that are older than that, and days before that."""


class Window:
    """Rolls the window on, now and at every midnight at home."""

    def __init__(self, store: WindowStore, flights_of: FlightsOf, clock: Clock) -> None:
        self._store = store
        self._flights_of = flights_of
        self._clock = clock

    async def keep(self) -> Never:
        """Roll for ever."""
        while True:
            today = self._clock.now().astimezone(HOME).date()
            await self.roll(today)
            await self._clock.sleep_until(midnight(today + timedelta(days=1)))

    async def roll(self, today: date) -> None:
        """Make the window the 30 days from `today`."""
        missing = await self._store.missing(window(today, DAYS))
        if missing:
            await self._add(missing)
        await self._store.begin()
        now = self._clock.now()
        removed = await self._store.remove_past(midnight(today), now)
        await self._store.forget(
            requests=now - REQUESTS_KEPT,
            holds=now - HOLDS_KEPT,
            days=today - timedelta(days=DAYS),
        )
        _log.info("window_rolled", today=str(today), days_added=len(missing), removed=removed)

    async def _add(self, missing: Sequence[date]) -> None:
        days = self._flights_of(missing)
        done = 0
        while (found := await asyncio.to_thread(next, days, None)) is not None:
            day, flights = found
            await self._store.add(day, flights, self._clock.now())
            done += 1
            _log.info("day_loaded", day=str(day), flights=len(flights), of=f"{done}/{len(missing)}")


def midnight(day: date) -> datetime:
    """When that day begins at home."""
    return datetime.combine(day, time(), HOME).astimezone(UTC)
