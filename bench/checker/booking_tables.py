"""Booking's database by SQL."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row

from bench.checker.databases import instant, rows
from bench.checker.facts import Booking, BookingFacts, Key
from bench.checker.history import Priced, line
from bench.checker.messages import booking_event
from bench.checker.positions import read_position
from bench.checker.streams import read_stream

_BOOKINGS = """
SELECT b.booking_id, b.reference, b.subject, b.quote_id, b.status, b.total, b.rejection_reason,
       b.create_time, b.version, s.step, c.email
FROM booking b
LEFT JOIN saga s ON s.booking_id = b.booking_id
LEFT JOIN contact c ON c.booking_id = b.booking_id
"""
_PASSENGERS = (
    "SELECT booking_id, given_name, family_name FROM passenger ORDER BY booking_id, position"
)
_SEGMENTS = """
SELECT booking_id, flight_id, cabin, fare, taxes FROM segment ORDER BY booking_id, position
"""
_KEYS = """
SELECT subject, request_id, booking_id FROM idempotency_key WHERE operation = 'CreateBooking'
"""
_CANCELLED = "SELECT flight_id, pending FROM cancelled_flight"


def read_booking(connection: Connection) -> BookingFacts:
    """All that the judge needs of it."""
    bookings = {row.booking_id: _booking(row) for row in rows(connection, _BOOKINGS)}
    for booking_id, party in _grouped(connection, _PASSENGERS):
        bookings[booking_id].passengers = tuple((one.given_name, one.family_name) for one in party)
    known: dict[tuple[Priced, ...], tuple[Priced, ...]] = {}
    for booking_id, flights in _grouped(connection, _SEGMENTS):
        segments = tuple(map(_segment, flights))
        bookings[booking_id].segments = known.setdefault(segments, segments)
    return BookingFacts(
        bookings=bookings,
        keys=[
            Key(user=row.subject, key=row.request_id, booking_id=row.booking_id)
            for row in rows(connection, _KEYS)
        ],
        stream=read_stream(connection, "booking", booking_event),
        position=read_position(connection),
        cancelled={row.flight_id: bool(row.pending) for row in rows(connection, _CANCELLED)},
    )


def _grouped(connection: Connection, statement: str) -> Iterator[tuple[str, Iterator[Row[Any]]]]:
    return groupby(rows(connection, statement), key=lambda row: str(row.booking_id))


def _booking(row: Row[Any]) -> Booking:
    return Booking(
        booking_id=row.booking_id,
        reference=row.reference,
        user=row.subject,
        quote_id=row.quote_id,
        status=row.status,
        total=None if row.total is None else Decimal(row.total),
        reason=row.rejection_reason or "",
        create_time=instant(row.create_time),
        version=row.version,
        step=row.step or "",
        email=row.email or "",
    )


def _segment(row: Row[Any]) -> Priced:
    return line(row.flight_id, row.cabin, row.fare, row.taxes)
