"""Cancelled flights as rows, and the bookings that they affect.

Whichever comes first, the booking of a cancelled flight ends up AFFECTED. The unit that confirms a
booking looks here; bookings that were confirmed before the news came are marked after it, some at a
time, so that a full flight does not hold the writer for long. A database has one writer at a time:
no booking is confirmed between the two looks.

A cancellation is final in a history of schedule, so that applying one again changes nothing. Rows
outlive their flight: a booking may still be on its way when schedule has dropped it.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select, update

from booking.domain import Booking, Status
from booking.rows import load_bookings, update_booking
from booking.tables import bookings, cancelled_flights, segments
from eventstream import insert_into

AFFECTED_AT_A_TIME: Final = 50

_flight = cancelled_flights.c
_ANY_CANCELLED = (
    select(_flight.flight_id)
    .where(_flight.flight_id.in_(bindparam("ids", expanding=True)))
    .limit(1)
)
_PENDING = select(_flight.flight_id).where(_flight.pending).limit(1)


def note(connection: Connection, flights: Sequence[tuple[str, datetime]]) -> None:
    """These flights, given with their departures, do not fly."""
    if not flights:
        return
    statement = insert_into(connection, cancelled_flights)
    known = statement.on_conflict_do_update(
        index_elements=["flight_id"],
        set_={"departure_time": statement.excluded.departure_time, "unseen": False},
    )
    rows = [
        {"flight_id": flight_id, "departure_time": departure, "pending": True, "unseen": False}
        for flight_id, departure in flights
    ]
    connection.execute(known, rows)


def mark_unseen(connection: Connection, _after: str) -> None:
    """A snapshot begins; they are few."""
    connection.execute(update(cancelled_flights).values(unseen=True))


def sweep(connection: Connection, now: datetime) -> None:
    """A snapshot is complete: a flight to come that it did not cancel flies after all.

    That is so when schedule has another history, as after a backup was restored. What is past has
    only left the timetable.
    """
    connection.execute(
        delete(cancelled_flights).where(_flight.unseen, _flight.departure_time > now)
    )


def forget(connection: Connection, before: datetime) -> int:
    """Drop flights that should have left before an instant; returns how many."""
    old = delete(cancelled_flights).where(_flight.departure_time < before, ~_flight.pending)
    return connection.execute(old).rowcount


def affect_if_cancelled(connection: Connection, booking: Booking) -> Booking:
    """The booking that was confirmed just now, or its next version where a flight is cancelled."""
    ids = [segment.flight_id for segment in booking.segments]
    if connection.execute(_ANY_CANCELLED, {"ids": ids}).first() is None:
        return booking
    return _affect(connection, booking, booking.update_time)


def pending_flight(connection: Connection) -> str | None:
    """A cancelled flight some of whose bookings may not be marked yet."""
    return connection.execute(_PENDING).scalar()


def affect(connection: Connection, flight_id: str, now: datetime) -> int:
    """Mark some of the confirmed bookings of a cancelled flight; returns how many."""
    of_flight = select(segments.c.booking_id).where(segments.c.flight_id == flight_id)
    confirmed = select(bookings).where(
        bookings.c.status == Status.CONFIRMED.value, bookings.c.booking_id.in_(of_flight)
    )
    rows = connection.execute(confirmed.limit(AFFECTED_AT_A_TIME)).all()
    for booking in load_bookings(connection, rows):
        _affect(connection, booking, now)
    if len(rows) < AFFECTED_AT_A_TIME:
        done = update(cancelled_flights).where(_flight.flight_id == flight_id)
        connection.execute(done.values(pending=False))
    return len(rows)


def _affect(connection: Connection, booking: Booking, now: datetime) -> Booking:
    affected = booking.affected(now)
    update_booking(connection, booking, affected)
    return affected
