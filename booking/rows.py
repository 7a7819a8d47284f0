"""Bookings and sagas as rows: how they are read and written on one connection.

Statements are built once, with parameters: to build one costs SQLAlchemy more than to run it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, Select, bindparam, insert, select, update

from booking.domain import (
    Booking,
    Cabin,
    IllegalTransition,
    Passenger,
    Rejection,
    Saga,
    Segment,
    Status,
    Step,
    User,
)
from booking.messages import event_message
from booking.tables import bookings, contacts, outbox, passengers, segments

_INSERT_BOOKING = insert(bookings)
_INSERT_PASSENGERS = insert(passengers)
_INSERT_CONTACT = insert(contacts)
_INSERT_SEGMENTS = insert(segments)
_UPDATE_BOOKING = update(bookings).where(
    bookings.c.booking_id == bindparam("this"),
    bookings.c.version == bindparam("version_before"),
)
_IDS: BindParameter[Sequence[str]] = bindparam("ids", expanding=True)
_BOOKINGS = select(bookings).where(bookings.c.booking_id.in_(_IDS))
_CONTACTS = select(contacts).where(contacts.c.booking_id.in_(_IDS))
_PASSENGERS, _SEGMENTS = (
    select(table).where(table.c.booking_id.in_(_IDS)).order_by(table.c.position)
    for table in (passengers, segments)
)


def insert_booking(connection: Connection, booking: Booking) -> None:
    """Store a new booking and tell of it."""
    connection.execute(
        _INSERT_BOOKING,
        {
            "booking_id": booking.booking_id,
            "reference": booking.reference,
            "issuer": booking.user.issuer,
            "subject": booking.user.subject,
            "quote_id": booking.quote_id,
            "create_time": booking.create_time,
            **_changing(booking),
        },
    )
    connection.execute(
        _INSERT_PASSENGERS,
        [
            {
                "booking_id": booking.booking_id,
                "position": position,
                "given_name": one.given_name,
                "family_name": one.family_name,
            }
            for position, one in enumerate(booking.passengers)
        ],
    )
    contact = {"booking_id": booking.booking_id, "email": booking.email}
    connection.execute(_INSERT_CONTACT, contact)
    _tell(connection, booking)


def update_booking(connection: Connection, before: Booking, after: Booking) -> None:
    """Store the next version of a booking and tell of it."""
    this = {"this": after.booking_id, "version_before": before.version}
    if connection.execute(_UPDATE_BOOKING, this | _changing(after)).rowcount != 1:
        raise IllegalTransition("the booking has changed without its saga")
    if after.segments != before.segments:
        connection.execute(
            _INSERT_SEGMENTS,
            [
                {
                    "booking_id": after.booking_id,
                    "position": position,
                    "flight_id": one.flight_id,
                    "cabin": one.cabin.value,
                    "fare": str(one.fare),
                    "taxes": str(one.taxes),
                }
                for position, one in enumerate(after.segments)
            ],
        )
    _tell(connection, after)


def load_bookings(connection: Connection, found: Sequence[Row[Any]]) -> list[Booking]:
    """The bookings of rows of the table `booking`, in their order."""
    ids = [row.booking_id for row in found]
    parties = _children(connection, _PASSENGERS, ids)
    flights = _children(connection, _SEGMENTS, ids)
    emails = {row.booking_id: row.email for row in connection.execute(_CONTACTS, {"ids": ids})}
    return [
        _booking(row, parties[row.booking_id], flights[row.booking_id], emails[row.booking_id])
        for row in found
    ]


def load_sagas(connection: Connection, found: Sequence[Row[Any]]) -> list[Saga]:
    """The sagas of rows of the table `saga`, each with its booking, in their order."""
    ids = [row.booking_id for row in found]
    rows = connection.execute(_BOOKINGS, {"ids": ids}).all()
    by_id = {one.booking_id: one for one in load_bookings(connection, rows)}
    return [
        Saga(
            booking=by_id[row.booking_id],
            owner=row.owner,
            step=Step(row.step),
            epoch=row.epoch,
            attempts=row.attempts,
            rejection=_rejection(row),
        )
        for row in found
    ]


def saga_columns(saga: Saga) -> dict[str, Any]:
    """What the row of a saga says, but for its owner and when it is due."""
    return {
        "step": saga.step.value,
        "epoch": saga.epoch,
        "attempts": saga.attempts,
        "last_error": "",
        **_rejection_columns(saga.rejection),
    }


def _tell(connection: Connection, booking: Booking) -> None:
    event = event_message(booking).SerializeToString(deterministic=True)
    outbox.append(connection, booking.booking_id, event, booking.update_time)


def _changing(booking: Booking) -> dict[str, Any]:
    return {
        "status": booking.status.value,
        "total": None if booking.total is None else str(booking.total),
        "update_time": booking.update_time,
        "version": booking.version,
        **_rejection_columns(booking.rejection),
    }


def _rejection_columns(rejection: Rejection | None) -> dict[str, str | None]:
    return {
        "rejection_reason": None if rejection is None else rejection.reason,
        "rejection_message": None if rejection is None else rejection.message,
        "fresh_quote_id": None if rejection is None else rejection.fresh_quote_id,
    }


def _rejection(row: Row[Any]) -> Rejection | None:
    if row.rejection_reason is None:
        return None
    return Rejection(
        reason=row.rejection_reason,
        message=row.rejection_message,
        fresh_quote_id=row.fresh_quote_id,
    )


def _children(
    connection: Connection, query: Select[Any], ids: Sequence[str]
) -> defaultdict[str, list[Row[Any]]]:
    children = defaultdict[str, list[Row[Any]]](list)
    for row in connection.execute(query, {"ids": ids}):
        children[row.booking_id].append(row)
    return children


def _booking(
    row: Row[Any], party: Iterable[Row[Any]], flights: Iterable[Row[Any]], email: str
) -> Booking:
    return Booking(
        booking_id=row.booking_id,
        reference=row.reference,
        user=User(issuer=row.issuer, subject=row.subject),
        quote_id=row.quote_id,
        passengers=tuple(
            Passenger(given_name=one.given_name, family_name=one.family_name) for one in party
        ),
        email=email,
        create_time=row.create_time,
        update_time=row.update_time,
        status=Status(row.status),
        segments=tuple(_segment(one) for one in flights),
        total=None if row.total is None else Decimal(row.total),
        rejection=_rejection(row),
        version=row.version,
    )


def _segment(row: Row[Any]) -> Segment:
    return Segment(
        flight_id=row.flight_id,
        cabin=Cabin(row.cabin),
        fare=Decimal(row.fare),
        taxes=Decimal(row.taxes),
    )
