"""What is asked of the booking database, each on one connection."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, select, tuple_

from booking.domain import Booking, RequestKey, Step, UnfinishedSaga, User
from booking.messages import event_message
from booking.rows import load_bookings
from booking.service import Position
from booking.tables import bookings, idempotency_keys, sagas
from flights.booking.v1 import booking_pb2 as pb

_KEY = idempotency_keys.c
_REQUESTED = (
    select(bookings, _KEY.content_hash)
    .join(idempotency_keys)
    .where(
        _KEY.issuer == bindparam("issuer"),
        _KEY.subject == bindparam("subject"),
        _KEY.operation == bindparam("operation"),
        _KEY.request_id == bindparam("request_id"),
    )
)


def find(connection: Connection, user: User, booking_id: str) -> Booking | None:
    """One booking of the user."""
    query = select(bookings).where(bookings.c.booking_id == booking_id, _owned_by(user))
    rows = connection.execute(query).all()
    return load_bookings(connection, rows)[0] if rows else None


def requested(connection: Connection, key: RequestKey) -> Booking | None:
    """The booking that this key made; `RequestIdReused` if it was used for other content."""
    scope = {
        "issuer": key.user.issuer,
        "subject": key.user.subject,
        "operation": key.operation,
        "request_id": key.request_id,
    }
    found = connection.execute(_REQUESTED, scope).all()
    if not found:
        return None
    key.check(found[0].content_hash)
    return load_bookings(connection, found)[0]


def page(
    connection: Connection, user: User, after: Position | None, limit: int
) -> Sequence[Booking]:
    """The user's bookings, newest first."""
    order = bookings.c.create_time, bookings.c.booking_id
    query = select(bookings).where(_owned_by(user)).order_by(*(column.desc() for column in order))
    if after is not None:
        query = query.where(tuple_(*order) < tuple_(after.time, after.booking_id))
    return load_bookings(connection, connection.execute(query.limit(limit)).all())


def unfinished(
    connection: Connection, after: Position | None, limit: int
) -> Sequence[UnfinishedSaga]:
    """Sagas that have not ended, of all users, the oldest first."""
    order = sagas.c.start_time, sagas.c.booking_id
    query = select(sagas).where(sagas.c.due_time.is_not(None)).order_by(*order)
    if after is not None:
        query = query.where(tuple_(*order) > tuple_(after.time, after.booking_id))
    return [
        UnfinishedSaga(
            booking_id=row.booking_id,
            step=Step(row.step),
            epoch=row.epoch,
            attempts=row.attempts,
            last_error=row.last_error,
            owner=row.owner,
            start_time=row.start_time,
            due_time=row.due_time,
        )
        for row in connection.execute(query.limit(limit))
    ]


def unfinished_by_step(connection: Connection) -> Mapping[Step, tuple[int, datetime]]:
    """How many sagas have not ended, and since when the oldest runs, by step."""
    column = sagas.c
    query = select(column.step, func.count(), func.min(column.start_time))
    rows = connection.execute(query.where(column.due_time.is_not(None)).group_by(column.step))
    return {Step(step): (count, oldest) for step, count, oldest in rows.all()}


def snapshot(
    connection: Connection, after: str | None, limit: int
) -> Sequence[tuple[str, pb.BookingEvent]]:
    """The state of bookings in key order, for the feed of events."""
    query = select(bookings).order_by(bookings.c.booking_id).limit(limit)
    if after is not None:
        query = query.where(bookings.c.booking_id > after)
    found = load_bookings(connection, connection.execute(query).all())
    return [(booking.booking_id, event_message(booking)) for booking in found]


def _owned_by(user: User) -> ColumnElement[bool]:
    return and_(bookings.c.issuer == user.issuer, bookings.c.subject == user.subject)
