"""The database adapter of the window: days of flights, added and removed in batches.

A batch is one short unit, so that bookings get their turn while a day is loaded. How far a day has
got is written with each batch. Before the history begins nobody else writes, and a day is one
batch: every commit writes each index page again that it touched, and ids are spread over all.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, bindparam, delete, insert, select, update

from eventstream import Database, Step
from schedule import messages
from schedule.bulk import insert_many
from schedule.domain import Flight, HoldState
from schedule.sources import DEFAULT
from schedule.store import ConcurrentChangeError
from schedule.tables import flight, flight_cabin, hold, outbox, request, timetable_day

WINDOW_LEASE: Final = "timetable-window"
"""Whoever fills the window leads under this name: the service, or `schedule.load`."""
BATCH = 250  # flights: about 1,100 rows with their cabins and events
REMOVED = 500

START_DAY: Final = Step("schedule.window_start_day")
ADD: Final = Step("schedule.window_add")
BEGIN: Final = Step("schedule.window_begin")
REMOVE: Final = Step("schedule.window_remove")
FORGET: Final = Step("schedule.window_forget")

_COLUMNS = [c.name for c in flight.c if c.name not in {"status", "event"}]
_values = attrgetter(*_COLUMNS)
_PAST = (
    select(flight.c.flight_id, flight.c.version)
    .where(flight.c.arrival_time < bindparam("before"))
    .order_by(flight.c.arrival_time)
    .limit(REMOVED)
)


class OtherSourceError(Exception):
    """The database has days of another source than the one that is to be loaded."""


class SqlWindowStore:
    """The window in a Database. `fence` raises in a unit that must not run any more."""

    def __init__(
        self, database: Database, fence: Callable[[Connection], None], source: str = DEFAULT
    ) -> None:
        self._database = database
        self._fence = fence
        self._source = source

    async def check_source(self) -> None:
        """Raise OtherSourceError where the newest day has another source."""
        stored = await source_in(self._database)
        if stored not in {None, self._source}:
            raise OtherSourceError(f"the database has {stored!r} already, not {self._source!r}")

    async def missing(self, days: Sequence[date]) -> list[date]:
        """Those of the days that are not wholly there."""
        query = select(timetable_day.c.day).where(timetable_day.c.complete)
        complete = await self._database.read(lambda c: set(c.execute(query).scalars()))
        return [day for day in days if day not in complete]

    async def add(self, day: date, flights: Sequence[Flight], at: datetime) -> None:
        """Add the flights of a day that are not there yet, in batches."""
        start, begun = await self._database.write(lambda c: self._started(c, day), step=START_DAY)
        size = BATCH if begun else max(len(flights), 1)
        for first in range(start, max(len(flights), 1), size):
            last = min(first + size, len(flights))
            await self._database.write(self._adding(day, flights, first, last, at), step=ADD)

    async def begin(self) -> None:
        """Begin the history, unless it has begun."""
        await self._database.write(self._begin, step=BEGIN)

    async def remove_past(self, before: datetime, at: datetime) -> int:
        """Remove the flights that arrived before that, in batches; returns how many."""
        removed = 0
        while part := await self._database.write(
            lambda c: self._remove(c, before, at), step=REMOVE
        ):
            removed += part
        return removed

    async def forget(self, *, requests: datetime, holds: datetime, days: date) -> None:
        """Remove requests and settled holds that are older than that, and days before that.

        In batches.
        """
        settled = hold.c.state != HoldState.HELD.value
        for key, *old in (
            (request.c.request_id, request.c.create_time < requests),
            (hold.c.booking_id, settled, hold.c.update_time < holds),
            (timetable_day.c.day, timetable_day.c.day < days),
        ):
            while await self._database.write(self._forgetting(key, *old), step=FORGET):
                pass

    def _started(self, connection: Connection, day: date) -> tuple[int, bool]:
        """How many flights of the day are there, and whether the history has begun."""
        self._fence(connection)
        query = select(timetable_day.c.flights).where(timetable_day.c.day == day)
        there = connection.execute(query).scalar_one_or_none()
        if there is None:
            row = {"day": day, "flights": 0, "complete": False, "source": self._source}
            connection.execute(insert(timetable_day), row)
        return there or 0, outbox.head(connection) is not None

    def _adding(
        self, day: date, flights: Sequence[Flight], start: int, end: int, at: datetime
    ) -> Callable[[Connection], None]:
        def unit(connection: Connection) -> None:
            self._fence(connection)
            progress = (
                update(timetable_day)
                .where(timetable_day.c.day == day, timetable_day.c.flights == start)
                .values(flights=end, complete=end == len(flights))
            )
            if connection.execute(progress).rowcount != 1:
                raise ConcurrentChangeError(f"{day} is being loaded by another process")
            if start < end:
                insert_flights(connection, flights[start:end], at)

        return unit

    def _begin(self, connection: Connection) -> None:
        self._fence(connection)
        if outbox.head(connection) is None:
            outbox.start_epoch(connection)

    def _forgetting(
        self, key: Column[Any], *old: ColumnElement[bool]
    ) -> Callable[[Connection], int]:
        some = select(key).where(*old).limit(REMOVED)
        statement = delete(key.table).where(key.in_(some))

        def unit(connection: Connection) -> int:
            self._fence(connection)
            return connection.execute(statement).rowcount

        return unit

    def _remove(self, connection: Connection, before: datetime, at: datetime) -> int:
        self._fence(connection)
        past = connection.execute(_PAST, {"before": before}).all()
        if past:
            ids = [row.flight_id for row in past]
            connection.execute(delete(flight).where(flight.c.flight_id.in_(ids)))
            outbox.append_many(connection, [_removed(*row, at) for row in past])
        return len(past)


async def source_in(database: Database) -> str | None:
    """Where the newest day came from, if there is any."""
    newest = select(timetable_day.c.source).order_by(timetable_day.c.day.desc()).limit(1)
    return await database.read(lambda c: c.execute(newest).scalar_one_or_none())


async def loaded(database: Database) -> None:
    """Return once the first window is whole, whichever process loads it."""
    seen = database.version
    while await database.read(outbox.head) is None:
        seen = await database.changed(seen)


def insert_flights(connection: Connection, flights: Sequence[Flight], at: datetime) -> None:
    """Insert flights; publishes them if the history has begun.

    Their versions begin after the newest event's number. No version of a row can be larger than the
    number of events, so a flight that has left and comes back never has a version again that it
    had, nor an etag.
    """
    head = outbox.head(connection)
    if head is not None:
        first = head.seq + 1
        flights = [replace(new, version=first, revision=first) for new in flights]
    events = [messages.flight_changed(new, at).SerializeToString() for new in flights]
    insert_many(connection, flight, [_row(*new) for new in zip(flights, events, strict=True)])
    insert_many(connection, flight_cabin, [row for new in flights for row in _cabin_rows(new)])
    if head is not None:
        changes = [(new.flight_id, e, at) for new, e in zip(flights, events, strict=True)]
        outbox.append_many(connection, changes)


def _row(new: Flight, event: bytes) -> dict[str, Any]:
    row = dict(zip(_COLUMNS, _values(new), strict=True))
    return row | {"status": new.status.value, "event": event}


def _cabin_rows(new: Flight) -> list[dict[str, Any]]:
    return [
        {
            "flight_id": new.flight_id,
            "cabin": seats.cabin.value,
            "capacity": seats.capacity,
            "held": seats.held,
            "sold": seats.sold,
        }
        for seats in new.cabins
    ]


def _removed(flight_id: str, version: int, at: datetime) -> tuple[str, bytes, datetime]:
    return flight_id, messages.flight_removed(flight_id, version, at).SerializeToString(), at
