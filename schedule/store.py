"""The database adapter: flights, holds and requests as rows, changes also as events.

A change of a flight is an update conditional on the version that was read; together with the
table's constraints on seats that holds whatever the isolation of the database.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final, TypeVar

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from eventstream import Database, Step, insert_into
from flights.schedule.v1 import schedule_pb2
from schedule import messages
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
from schedule.tables import flight, flight_cabin, hold, hold_segment, outbox, request

T = TypeVar("T")

STEPS: Final = {of: Step(f"schedule.{of}") for of in UseCase}

_FLIGHT = [column for column in flight.c if column is not flight.c.event]
_CHANGING = [
    "version",
    "revision",
    "departure_time",
    "arrival_time",
    "departure_utc_offset_minutes",
    "arrival_utc_offset_minutes",
    "status",
    "status_reason",
]

_FLIGHTS = (
    select(*_FLIGHT)
    .where(flight.c.flight_id.in_(bindparam("flight_ids", expanding=True)))
    .order_by(flight.c.flight_id)
)
_FLIGHTS_LOCKED = _FLIGHTS.with_for_update()
_CABINS = (
    select(flight_cabin)
    .where(flight_cabin.c.flight_id.in_(bindparam("flight_ids", expanding=True)))
    .order_by(flight_cabin.c.flight_id, flight_cabin.c.cabin)
)
_PAGE = (
    select(*_FLIGHT)
    .where(
        flight.c.origin == bindparam("origin"),
        flight.c.destination == bindparam("destination"),
        flight.c.departure_date == bindparam("departure_date"),
    )
    .order_by(flight.c.scheduled_departure_time, flight.c.flight_id)
    .limit(bindparam("limit"))
)
_NEXT_PAGE = _PAGE.where(
    tuple_(flight.c.scheduled_departure_time, flight.c.flight_id)
    > tuple_(bindparam("after_time", type_=flight.c.departure_time.type), bindparam("after_id"))
)
_CHANGE_FLIGHT = (
    update(flight)
    .where(flight.c.flight_id == bindparam("key"), flight.c.version == bindparam("seen"))
    .values({name: bindparam(name) for name in [*_CHANGING, "event"]})
)
_CHANGE_CABIN = (
    update(flight_cabin)
    .where(flight_cabin.c.flight_id == bindparam("key"), flight_cabin.c.cabin == bindparam("of"))
    .values(held=bindparam("held"), sold=bindparam("sold"))
)
_HOLD = (
    select(hold, hold_segment.c.flight_id, hold_segment.c.cabin, hold_segment.c.seats)
    .outerjoin(hold_segment, hold_segment.c.booking_id == hold.c.booking_id)
    .where(hold.c.booking_id == bindparam("key"))
    .order_by(hold_segment.c.position)
)
_HOLD_LOCKED = _HOLD.with_for_update(of=hold)
_OPEN_HOLD = insert(hold)
_OPEN_SEGMENTS = insert(hold_segment)
_MOVE_HOLD = (
    update(hold)
    .where(hold.c.booking_id == bindparam("key"))
    .values({name: bindparam(name) for name in ("saga_epoch", "state", "update_time")})
)
_HELD = hold.c.state == literal_column(str(HoldState.HELD.value))  # as in the partial index
_DUE = (
    select(hold.c.booking_id)
    .where(_HELD, hold.c.expire_time <= bindparam("now"))
    .order_by(hold.c.expire_time)
    .limit(100)
)
_NEXT_EXPIRY = select(func.min(hold.c.expire_time)).where(_HELD)
_REQUEST = select(request.c.fingerprint).where(request.c.request_id == bindparam("key"))


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
        return await self._database.read(
            lambda connection: query(SqlRecords(connection, lock=False))
        )


class SqlRecords:
    """Records of one transaction; with `lock`, what is read stays as it is until its end."""

    def __init__(self, connection: Connection, *, lock: bool = True) -> None:
        self._connection = connection
        self._lock = lock

    def flights(self, flight_ids: Iterable[str]) -> Mapping[str, Flight]:
        """Those of the flights that exist."""
        query = _FLIGHTS_LOCKED if self._lock else _FLIGHTS
        rows = self._connection.execute(query, {"flight_ids": sorted(set(flight_ids))})
        return {found.flight_id: found for found in self._with_cabins(rows.mappings().all())}

    def page(self, of: RouteDay, after: PageEnd | None, limit: int) -> Sequence[Flight]:
        """So many flights after that one, by published departure."""
        values: dict[str, Any] = {
            "origin": of.origin,
            "destination": of.destination,
            "departure_date": of.departure_date,
            "limit": limit,
        }
        query = _PAGE
        if after is not None:
            query = _NEXT_PAGE
            values |= {"after_time": after.departure_time, "after_id": after.flight_id}
        return self._with_cabins(self._connection.execute(query, values).mappings().all())

    def change(self, flights: Sequence[Flight], at: datetime) -> None:
        """Store the next versions of flights and publish them, in order of id."""
        if not flights:
            return
        ordered = sorted(flights, key=lambda f: f.flight_id)
        events = [messages.flight_changed(f, at).SerializeToString() for f in ordered]
        rows = [_changes(f, event) for f, event in zip(ordered, events, strict=True)]
        if self._connection.execute(_CHANGE_FLIGHT, rows).rowcount != len(rows):
            raise ConcurrentChangeError("a flight has changed meanwhile")
        seats = [_seats(f, c) for f in ordered for c in f.cabins]
        self._connection.execute(_CHANGE_CABIN, seats)
        published = [(f.flight_id, e, at) for f, e in zip(ordered, events, strict=True)]
        outbox.append_many(self._connection, published)

    def hold(self, booking_id: str) -> Hold | None:
        """The booking's hold."""
        query = _HOLD_LOCKED if self._lock else _HOLD
        rows = self._connection.execute(query, {"key": booking_id}).all()
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

    def open_hold(self, new: Hold, at: datetime) -> None:
        """Store a new hold with its segments."""
        row = {
            "booking_id": new.booking_id,
            "saga_epoch": new.saga_epoch,
            "state": new.state.value,
            "expire_time": new.expire_time,
            "update_time": at,
        }
        self._connection.execute(_OPEN_HOLD, row)
        if new.segments:
            self._connection.execute(_OPEN_SEGMENTS, _segments(new))

    def move_hold(self, moved: Hold, at: datetime) -> None:
        """Store the new state and epoch of a hold."""
        row = {"saga_epoch": moved.saga_epoch, "state": moved.state.value, "update_time": at}
        self._connection.execute(_MOVE_HOLD, {"key": moved.booking_id, **row})

    def first_time(self, request_id: str, fingerprint: str, at: datetime) -> bool:
        """Note a request; False when it was noted before. Raises RequestIdReused."""
        row = {"request_id": request_id, "fingerprint": fingerprint, "create_time": at}
        added = self._connection.execute(
            insert_into(self._connection, request).values(row).on_conflict_do_nothing()
        )
        if added.rowcount:
            return True
        if self._connection.execute(_REQUEST, {"key": request_id}).scalar_one() != fingerprint:
            raise RequestIdReused("this request_id was used for other content")
        return False

    def _with_cabins(self, rows: Sequence[RowMapping]) -> list[Flight]:
        keys = [row["flight_id"] for row in rows]
        found = self._connection.execute(_CABINS, {"flight_ids": keys}).all() if keys else ()
        cabins = {
            key: tuple(map(_cabin, group)) for key, group in groupby(found, lambda c: c.flight_id)
        }
        return [
            Flight(
                **{**row, "status": FlightStatus(row["status"])},
                cabins=cabins.get(row["flight_id"], ()),
            )
            for row in rows
        ]


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
        return await self._database.read(lambda c: c.execute(_DUE, {"now": now}).scalars().all())

    async def next_expiry(self) -> datetime | None:
        """When the next hold runs out."""
        return await self._database.read(lambda c: c.execute(_NEXT_EXPIRY).scalar_one())


def snapshot(
    connection: Connection, after: str | None, limit: int
) -> list[tuple[str, schedule_pb2.FlightEvent]]:
    """The newest event of so many flights after that one, by id."""
    rows = connection.execute(_SNAPSHOT, {"after": after or "", "limit": limit})
    return [(key, schedule_pb2.FlightEvent.FromString(event)) for key, event in rows]


_SNAPSHOT = (
    select(flight.c.flight_id, flight.c.event)
    .where(flight.c.flight_id > bindparam("after"))
    .order_by(flight.c.flight_id)
    .limit(bindparam("limit"))
)


def _changes(changed: Flight, event: bytes) -> dict[str, Any]:
    values = {name: getattr(changed, name) for name in _CHANGING}
    key = {"key": changed.flight_id, "seen": changed.version - 1}
    return values | key | {"status": changed.status.value, "event": event}


def _seats(changed: Flight, seats: CabinSeats) -> dict[str, Any]:
    return {
        "key": changed.flight_id,
        "of": seats.cabin.value,
        "held": seats.held,
        "sold": seats.sold,
    }


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
