"""The database adapter: flights, holds and requests as rows, changes also as events.

A change of a flight is an update conditional on the version that was read, and the table has
constraints on seats: a second writer, which there must never be, could do no harm.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row, Table, Update

from eventstream import Database, Step, insert_into
from flights.schedule.v1 import schedule_pb2
from schedule import messages, statements
from schedule.domain import (
    Cabin,
    CabinSeats,
    Flight,
    FlightStatus,
    Hold,
    HoldState,
    RequestIdReused,
    Segment,
)
from schedule.service import PageEnd, Records, RouteDay, UseCase
from schedule.tables import hold, outbox, request

T = TypeVar("T")

STEPS: Final = {of: Step(f"schedule.{of}") for of in UseCase}


class ConcurrentChangeError(Exception):
    """A row is not in the version that was read: another unit changed it meanwhile."""

    reason = "CONCURRENT_CHANGE"


class SqlStore:
    """Units and queries on a Database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, of: UseCase, unit: Callable[[Records], T]) -> T:
        """Run a use case's unit; returns when it is durable. Its exception undoes it."""
        return await self._database.write(
            lambda connection: unit(SqlRecords(connection)), step=STEPS[of]
        )

    async def read(self, query: Callable[[Records], T]) -> T:
        """Run a query on one consistent snapshot."""
        return await self._database.read(lambda connection: query(SqlRecords(connection)))


class SqlRecords:
    """Records of one transaction.

    State: `_read`, the flights as they were read, so that only what has changed is written.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read: dict[str, Flight] = {}

    def flights(self, flight_ids: Iterable[str]) -> Mapping[str, Flight]:
        """Those of the flights that exist."""
        rows = self._connection.execute(statements.FLIGHTS, {"flight_ids": list(set(flight_ids))})
        found = {
            flight_id: _flight(list(group))
            for flight_id, group in groupby(rows, lambda row: str(row.flight_id))
        }
        self._read.update(found)
        return found

    def page(self, of: RouteDay, after: PageEnd | None, limit: int) -> Sequence[Flight]:
        """So many flights after that one, by published departure."""
        values: dict[str, Any] = {
            "origin": of.origin,
            "destination": of.destination,
            "departure_date": of.departure_date,
            "limit": limit,
        }
        query = statements.PAGE
        if after is not None:
            query = statements.NEXT_PAGE
            values |= {"after_time": after.departure_time, "after_id": after.flight_id}
        flight_ids = self._connection.execute(query, values).scalars().all()
        found = self.flights(flight_ids)
        return [found[flight_id] for flight_id in flight_ids]

    def change(self, flights: Sequence[Flight], at: datetime) -> None:
        """Store new versions of flights that were read, and publish them, in order of id."""
        if not flights:
            return
        ordered = sorted(flights, key=lambda f: f.flight_id)
        events = [messages.flight_changed(f, at).SerializeToString() for f in ordered]
        steps = [(self._read[f.flight_id], f, e) for f, e in zip(ordered, events, strict=True)]
        self._update(statements.MOVE_SEATS, [_version(*s) for s in steps if not _rescheduled(*s)])
        self._update(statements.CHANGE_FLIGHT, [_changes(*s) for s in steps if _rescheduled(*s)])
        self._update(statements.CHANGE_CABIN, [row for s in steps for row in _seats(*s)])
        outbox.append_many(self._connection, [(f.flight_id, event, at) for _, f, event in steps])

    def _update(self, statement: Update, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        values = rows if len(rows) > 1 else rows[0]  # a batch of one costs a driver more
        if self._connection.execute(statement, values).rowcount != len(rows):
            raise ConcurrentChangeError("a flight has changed meanwhile")

    def hold(self, booking_id: str) -> Hold | None:
        """The booking's hold."""
        rows = self._connection.execute(statements.HOLD, {"key": booking_id}).all()
        if not rows:
            return None
        return Hold(
            booking_id=booking_id,
            saga_epoch=rows[0].saga_epoch,
            state=HoldState(rows[0].state),
            expire_time=rows[0].expire_time,
            segments=tuple(
                Segment(flight_id=row.flight_id, cabin=Cabin(row.cabin), seats=row.seats)
                for row in rows
                if row.flight_id is not None
            ),
        )

    def open_hold(self, new: Hold, at: datetime) -> bool:
        """Store a new hold with its segments; False where the booking has one."""
        row = {
            "booking_id": new.booking_id,
            "saga_epoch": new.saga_epoch,
            "state": new.state.value,
            "expire_time": new.expire_time,
            "update_time": at,
        }
        if not self._added(hold, row):
            return False
        if new.segments:
            self._connection.execute(statements.OPEN_SEGMENTS, _segments(new))
        return True

    def move_hold(self, moved: Hold, at: datetime) -> None:
        """Store the new state and epoch of a hold."""
        row = {"saga_epoch": moved.saga_epoch, "state": moved.state.value, "update_time": at}
        self._connection.execute(statements.MOVE_HOLD, {"key": moved.booking_id, **row})

    def first_time(self, request_id: str, fingerprint: str, at: datetime) -> bool:
        """Note a request; False when it was noted before. Raises RequestIdReused."""
        row = {"request_id": request_id, "fingerprint": fingerprint, "create_time": at}
        if self._added(request, row):
            return True
        before = self._connection.execute(statements.REQUEST, {"key": request_id}).scalar_one()
        if before != fingerprint:
            raise RequestIdReused("this request_id was used for other content")
        return False

    def _added(self, table: Table, row: Mapping[str, Any]) -> bool:
        """Insert a row unless its key is there; whether it was not."""
        new = insert_into(self._connection, table).on_conflict_do_nothing()
        return self._connection.execute(new, row).rowcount == 1


class SqlDueHolds:
    """The holds of a Database that run out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def version(self) -> int:
        """A number that grows with what is committed."""
        return self._database.version

    async def changed(self, seen: int) -> int:
        """Wait until `version` is beyond `seen`."""
        return await self._database.changed(seen)

    async def due(self, now: datetime) -> Sequence[str]:
        """Bookings whose holds have run out by then, the oldest first, 100 at most."""
        return await self._database.read(
            lambda c: c.execute(statements.DUE, {"now": now}).scalars().all()
        )

    async def next_expiry(self) -> datetime | None:
        """When the next hold runs out."""
        return await self._database.read(lambda c: c.execute(statements.NEXT_EXPIRY).scalar_one())


def snapshot(
    connection: Connection, after: str | None, limit: int
) -> list[tuple[str, schedule_pb2.FlightEvent]]:
    """The newest event of so many flights after that one, by id."""
    rows = connection.execute(statements.SNAPSHOT, {"after": after or "", "limit": limit})
    return [(key, schedule_pb2.FlightEvent.FromString(event)) for key, event in rows]


def _flight(rows: Sequence[Row[Any]]) -> Flight:
    """A flight of its rows, one for each cabin; one without any if it has none."""
    values = {column.name: getattr(rows[0], column.name) for column in statements.FLIGHT}
    values["status"] = FlightStatus(rows[0].status)
    return Flight(**values, cabins=tuple(_cabin(row) for row in rows if row.cabin is not None))


def _rescheduled(before: Flight, after: Flight, _: bytes) -> bool:
    return before.revision != after.revision


def _changes(before: Flight, after: Flight, event: bytes) -> dict[str, Any]:
    values = {name: getattr(after, name) for name in statements.CHANGING if name != "event"}
    return values | {"status": after.status.value} | _version(before, after, event)


def _version(before: Flight, after: Flight, event: bytes) -> dict[str, Any]:
    seen = {"key": before.flight_id, "seen": before.version}
    return seen | {"version": after.version, "event": event}


def _seats(before: Flight, after: Flight, _: bytes) -> Iterator[dict[str, Any]]:
    for seats in after.cabins:
        if seats not in before.cabins:
            moved = {"held": seats.held, "sold": seats.sold}
            yield {"key": after.flight_id, "of": seats.cabin.value, **moved}


def _cabin(row: Any) -> CabinSeats:
    return CabinSeats(cabin=Cabin(row.cabin), capacity=row.capacity, held=row.held, sold=row.sold)


def _segments(new: Hold) -> list[dict[str, Any]]:
    return [
        {
            "booking_id": new.booking_id,
            "position": position,
            "flight_id": segment.flight_id,
            "cabin": segment.cabin.value,
            "seats": segment.seats,
        }
        for position, segment in enumerate(new.segments)
    ]
