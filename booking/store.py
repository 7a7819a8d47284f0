"""Bookings, sagas and idempotency keys in the database: each method is one transaction.

A database has one writer at a time, so what a unit has read holds until it is committed.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from booking import steps
from booking.changes import Changes
from booking.domain import Booking, ReferenceTaken, RequestKey, Saga, Status, Step, User
from booking.messages import event_message
from booking.rows import (
    insert_booking,
    load_bookings,
    load_sagas,
    saga_columns,
    update_booking,
)
from booking.service import Position
from booking.tables import bookings, idempotency_keys, sagas
from eventstream import Database
from flights.booking.v1 import booking_pb2 as pb

_NOBODY = ""


class BookingStore:
    """What `service.Bookings` and `runner.Log` ask for, over one database."""

    def __init__(self, db: Database, changes: Changes) -> None:
        self._db = db
        self._changes = changes

    async def find(self, user: User, booking_id: str) -> Booking | None:
        """One booking of the user."""
        return await self._db.read(lambda connection: _find(connection, user, booking_id))

    async def requested(self, key: RequestKey) -> Booking | None:
        """The booking that this key made; `RequestIdReused` if it was used for other content."""
        return await self._db.read(lambda connection: _requested(connection, key))

    async def page(self, user: User, after: Position | None, limit: int) -> Sequence[Booking]:
        """The user's bookings, newest first."""
        return await self._db.read(lambda connection: _page(connection, user, after, limit))

    async def begin(self, saga: Saga, key: RequestKey, due: datetime) -> Booking | None:
        """Store booking, key and saga; or return the booking that the key has made already."""
        try:
            return await self._db.write(
                lambda connection: _begin(connection, saga, key, due), step=steps.BEGIN
            )
        except IntegrityError as error:  # the key was looked for in the same unit
            raise ReferenceTaken(saga.booking.reference) from error

    async def cancel(
        self, user: User, booking_id: str, key: RequestKey, owner: str, now: datetime, due: datetime
    ) -> tuple[Booking, Saga | None] | None:
        """Cancel the user's booking; with the saga, unless it was cancelled before."""

        def unit(connection: Connection) -> tuple[Booking, Saga | None] | None:
            booking = _find(connection, user, booking_id)
            if booking is None:
                return None
            if made := _requested(connection, key):
                return made, None
            _remember(connection, key, booking.booking_id, now)
            if booking.status is Status.CANCELLED:
                return booking, None
            saga = _cancel(connection, booking, owner, now, due)
            return saga.booking, saga

        return await self._db.write(unit, step=steps.CANCEL)

    async def record(self, before: Saga, after: Saga, due: datetime) -> bool:
        """Store the saga's new step and what it did to the booking; false when superseded."""
        finished = after.step is Step.FINISHED
        statement = (
            update(sagas)
            .where(_unmoved(before))
            .values(
                owner=_NOBODY if finished else after.owner,
                due_time=None if finished else due,
                **saga_columns(after),
            )
        )

        def unit(connection: Connection) -> bool:
            if connection.execute(statement).rowcount != 1:
                return False
            if after.booking is not before.booking:
                update_booking(connection, before.booking, after.booking)
            return True

        recorded = await self._db.write(unit, step=steps.recording(before, after))
        if recorded:
            self._changes.tell(after.booking)
        return recorded

    async def postpone(self, saga: Saga, error: str, due: datetime) -> bool:
        """Count an unanswered attempt and let go of the saga until it is due."""
        statement = (
            update(sagas)
            .where(_unmoved(saga))
            .values(owner=_NOBODY, due_time=due, attempts=saga.attempts + 1, last_error=error)
        )
        return await self._db.write(
            lambda connection: connection.execute(statement).rowcount == 1, step=steps.POSTPONE
        )

    async def next_due(self, now: datetime, horizon: timedelta) -> datetime | None:
        """When the next saga is due: `now` where one is already."""

        def query(connection: Connection) -> datetime | None:
            if connection.execute(_overdue(now, horizon).limit(1)).first():
                return now
            return connection.execute(select(func.min(sagas.c.due_time))).scalar()

        return await self._db.read(query)

    async def claim(
        self, owner: str, now: datetime, horizon: timedelta, due: datetime, limit: int
    ) -> Sequence[Saga]:
        """Take sagas that are due, in a new epoch each, until `due`."""

        def unit(connection: Connection) -> Sequence[Saga]:
            query = _overdue(now, horizon).limit(limit)
            waiting = load_sagas(connection, connection.execute(query).all())
            taken = [replace(saga, owner=owner, epoch=saga.epoch + 1) for saga in waiting]
            for before, after in zip(waiting, taken, strict=True):
                own = {"owner": after.owner, "epoch": after.epoch, "due_time": due}
                connection.execute(update(sagas).where(_unmoved(before)).values(**own))
            return taken

        return await self._db.write(unit, step=steps.CLAIM)

    async def hand_back(self, owner: str, now: datetime) -> int:
        """Make the owner's unfinished sagas due for everybody; how many."""
        statement = update(sagas).where(sagas.c.owner == owner).values(owner=_NOBODY, due_time=now)
        return await self._db.write(
            lambda connection: connection.execute(statement).rowcount, step=steps.HAND_BACK
        )

    @property
    def version(self) -> int:
        """Grows with every commit that is known here."""
        return self._db.version

    async def changed(self, seen: int) -> int:
        """Wait for a version beyond `seen`: a commit of any process."""
        return await self._db.changed(seen)


def snapshot(
    connection: Connection, after: str | None, limit: int
) -> Sequence[tuple[str, pb.BookingEvent]]:
    """The state of bookings in key order, for the feed of events."""
    query = select(bookings).order_by(bookings.c.booking_id).limit(limit)
    if after is not None:
        query = query.where(bookings.c.booking_id > after)
    found = load_bookings(connection, connection.execute(query).all())
    return [(booking.booking_id, event_message(booking)) for booking in found]


def _find(connection: Connection, user: User, booking_id: str) -> Booking | None:
    query = select(bookings).where(bookings.c.booking_id == booking_id, _owned_by(user))
    rows = connection.execute(query).all()
    return load_bookings(connection, rows)[0] if rows else None


def _page(
    connection: Connection, user: User, after: Position | None, limit: int
) -> Sequence[Booking]:
    order = bookings.c.create_time, bookings.c.booking_id
    query = select(bookings).where(_owned_by(user)).order_by(*(column.desc() for column in order))
    if after is not None:
        query = query.where(tuple_(*order) < tuple_(after.create_time, after.booking_id))
    return load_bookings(connection, connection.execute(query.limit(limit)).all())


def _owned_by(user: User) -> ColumnElement[bool]:
    return and_(bookings.c.issuer == user.issuer, bookings.c.subject == user.subject)


def _begin(connection: Connection, saga: Saga, key: RequestKey, due: datetime) -> Booking | None:
    made = _requested(connection, key)
    if made is None:
        booking = saga.booking
        insert_booking(connection, booking)
        connection.execute(
            insert(sagas).values(
                booking_id=booking.booking_id,
                owner=saga.owner,
                due_time=due,
                **saga_columns(saga),
            )
        )
        _remember(connection, key, booking.booking_id, booking.create_time)
    return made


def _requested(connection: Connection, key: RequestKey) -> Booking | None:
    keys = idempotency_keys.c
    query = select(bookings, keys.content_hash).join(idempotency_keys)
    found = connection.execute(
        query.where(
            keys.issuer == key.user.issuer,
            keys.subject == key.user.subject,
            keys.operation == key.operation,
            keys.request_id == key.request_id,
        )
    ).all()
    if not found:
        return None
    key.check(found[0].content_hash)
    return load_bookings(connection, found)[0]


def _remember(connection: Connection, key: RequestKey, booking_id: str, now: datetime) -> None:
    connection.execute(
        insert(idempotency_keys).values(
            issuer=key.user.issuer,
            subject=key.user.subject,
            operation=key.operation,
            request_id=key.request_id,
            booking_id=booking_id,
            content_hash=key.content_hash,
            create_time=now,
        )
    )


def _cancel(
    connection: Connection, booking: Booking, owner: str, now: datetime, due: datetime
) -> Saga:
    query = select(sagas).where(sagas.c.booking_id == booking.booking_id)
    [before] = load_sagas(connection, connection.execute(query).all())
    after = before.cancelled(owner, now)
    connection.execute(
        update(sagas)
        .where(sagas.c.booking_id == booking.booking_id)
        .values(owner=owner, due_time=due, **saga_columns(after))
    )
    update_booking(connection, before.booking, after.booking)
    return after


def _unmoved(saga: Saga) -> ColumnElement[bool]:
    """Whether the stored saga is still the one that was read: the compare of compare-and-set."""
    return and_(
        sagas.c.booking_id == saga.booking.booking_id,
        sagas.c.epoch == saga.epoch,
        sagas.c.owner == saga.owner,
        sagas.c.step == saga.step.value,
    )


def _overdue(now: datetime, horizon: timedelta) -> Select[tuple[object, ...]]:
    """Sagas that anybody may take.

    One that is due further ahead than anything is ever put off was written before the clock was
    set back.
    """
    due = sagas.c.due_time
    return select(sagas).where(or_(due <= now, due > now + horizon)).order_by(due)
