"""Bookings, sagas and idempotency keys in the database: each method is one transaction.

A database has one writer at a time, so what a unit has read holds until it is committed.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from booking import queries, steps
from booking.cancelled_flights import affect_if_cancelled
from booking.changes import Changes
from booking.domain import (
    Booking,
    ReferenceTaken,
    RequestKey,
    Saga,
    Status,
    Step,
    UnfinishedSaga,
    User,
)
from booking.rows import (
    insert_booking,
    load_sagas,
    saga_columns,
    update_booking,
)
from booking.saga_log import Stray
from booking.service import Position
from booking.tables import idempotency_keys, sagas
from eventstream import Database

_NOBODY = ""
_STRAYS_AT_A_TIME = 500

_INSERT_SAGA = insert(sagas)
_INSERT_KEY = insert(idempotency_keys)
_MOVE = update(sagas).where(
    sagas.c.booking_id == bindparam("this"),
    sagas.c.epoch == bindparam("epoch_before"),
    sagas.c.owner == bindparam("owner_before"),
    sagas.c.step == bindparam("step_before"),
)
_RECALL = update(sagas).where(
    sagas.c.booking_id == bindparam("this"), sagas.c.due_time == bindparam("due_before")
)
_EARLIEST = select(func.min(sagas.c.due_time))


class BookingStore:
    """What `service.Bookings` and `saga_log.SagaLog` ask for, over one database."""

    def __init__(self, db: Database, changes: Changes) -> None:
        self._db = db
        self._changes = changes

    async def find(self, user: User, booking_id: str) -> Booking | None:
        """One booking of the user."""
        return await self._db.read(lambda connection: queries.find(connection, user, booking_id))

    async def requested(self, key: RequestKey) -> Booking | None:
        """The booking that this key made; `RequestIdReused` if it was used for other content."""
        return await self._db.read(lambda connection: queries.requested(connection, key))

    async def page(self, user: User, after: Position | None, limit: int) -> Sequence[Booking]:
        """The user's bookings, newest first."""
        return await self._db.read(lambda connection: queries.page(connection, user, after, limit))

    async def unfinished(self, after: Position | None, limit: int) -> Sequence[UnfinishedSaga]:
        """Sagas that have not ended, of all users, the oldest first."""
        return await self._db.read(lambda connection: queries.unfinished(connection, after, limit))

    async def unfinished_by_step(self) -> Mapping[Step, tuple[int, datetime]]:
        """How many sagas have not ended, and since when the oldest runs, by step."""
        return await self._db.read(queries.unfinished_by_step)

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
            booking = queries.find(connection, user, booking_id)
            if booking is None:
                return None
            if made := queries.requested(connection, key):
                return made, None
            _remember(connection, key, booking.booking_id, now)
            if booking.status is Status.CANCELLED:
                return booking, None
            saga = _cancel(connection, booking, owner, now, due)
            return saga.booking, saga

        cancelled = await self._db.write(unit, step=steps.CANCEL)
        if cancelled is not None:
            self._changes.tell(cancelled[0])
        return cancelled

    async def record(self, before: Saga, after: Saga, due: datetime) -> Saga | None:
        """Store the saga's new step and what it did to the booking; None when superseded.

        What is stored may be more: the booking is affected if one of its flights was cancelled.
        """
        finished = after.step is Step.FINISHED
        row = {
            "owner": _NOBODY if finished else after.owner,
            "due_time": None if finished else due,
            **saga_columns(after),
        }

        def unit(connection: Connection) -> Saga | None:
            if not _move(connection, before, row):
                return None
            if after.booking is before.booking:
                return after
            update_booking(connection, before.booking, after.booking)
            if after.booking.status is not Status.CONFIRMED:
                return after
            return replace(after, booking=affect_if_cancelled(connection, after.booking))

        stored = await self._db.write(unit, step=steps.recording(before, after))
        if stored is not None:
            self._changes.tell(stored.booking)
        return stored

    async def postpone(self, saga: Saga, error: str, due: datetime) -> bool:
        """Count an unanswered attempt and let go of the saga until it is due."""
        row = {
            "owner": _NOBODY,
            "due_time": due,
            "attempts": saga.attempts + 1,
            "last_error": error,
        }
        return await self._db.write(
            lambda connection: _move(connection, saga, row), step=steps.POSTPONE
        )

    async def next_due(self, now: datetime) -> datetime | None:
        """When the next saga is due: `now` where one is already."""
        due = await self._db.read(lambda connection: connection.execute(_EARLIEST).scalar())
        return None if due is None else max(due, now)

    async def claim(self, owner: str, now: datetime, due: datetime, limit: int) -> Sequence[Saga]:
        """Take sagas that are due, in a new epoch each, until `due`."""

        def unit(connection: Connection) -> Sequence[Saga]:
            query = select(sagas).where(sagas.c.due_time <= now).order_by(sagas.c.due_time)
            waiting = load_sagas(connection, connection.execute(query.limit(limit)).all())
            taken = [replace(saga, owner=owner, epoch=saga.epoch + 1) for saga in waiting]
            for before, after in zip(waiting, taken, strict=True):
                row = {"owner": after.owner, "epoch": after.epoch, "due_time": due}
                _move(connection, before, row)
            return taken

        return await self._db.write(unit, step=steps.CLAIM)

    async def strays(self, horizon: datetime) -> AbstractSet[Stray]:
        """Sagas that are due after the horizon only; some, where there are many."""
        query = select(sagas.c.booking_id, sagas.c.due_time).where(sagas.c.due_time > horizon)
        rows = await self._db.read(
            lambda connection: connection.execute(query.limit(_STRAYS_AT_A_TIME)).all()
        )
        return {(row.booking_id, row.due_time) for row in rows}

    async def recall(self, strays: AbstractSet[Stray], now: datetime) -> None:
        """Make sagas due that have not moved since they were read."""
        rows = [{"this": id_, "due_before": due, "due_time": now} for id_, due in strays]
        await self._db.write(
            lambda connection: connection.execute(_RECALL, rows), step=steps.RECALL
        )

    async def hand_back(self, owner: str, now: datetime) -> int:
        """Make the owner's unfinished sagas due for everybody; how many."""
        statement = update(sagas).where(sagas.c.owner == owner).values(owner=_NOBODY, due_time=now)
        return await self._db.write(
            lambda connection: connection.execute(statement).rowcount, step=steps.HAND_BACK
        )

    @property
    def elsewhere(self) -> int:
        """Grows with every commit of another process that is known here."""
        return self._db.elsewhere

    async def changed_elsewhere(self, seen: int) -> int:
        """Wait for such a commit: until `elsewhere` is beyond `seen`."""
        return await self._db.changed_elsewhere(seen)


def _begin(connection: Connection, saga: Saga, key: RequestKey, due: datetime) -> Booking | None:
    made = queries.requested(connection, key)
    if made is None:
        booking = saga.booking
        insert_booking(connection, booking)
        connection.execute(
            _INSERT_SAGA,
            {
                "booking_id": booking.booking_id,
                "owner": saga.owner,
                "due_time": due,
                "start_time": booking.create_time,
                **saga_columns(saga),
            },
        )
        _remember(connection, key, booking.booking_id, booking.create_time)
    return made


def _remember(connection: Connection, key: RequestKey, booking_id: str, now: datetime) -> None:
    connection.execute(
        _INSERT_KEY,
        {
            "issuer": key.user.issuer,
            "subject": key.user.subject,
            "operation": key.operation,
            "request_id": key.request_id,
            "booking_id": booking_id,
            "content_hash": key.content_hash,
            "create_time": now,
        },
    )


def _cancel(
    connection: Connection, booking: Booking, owner: str, now: datetime, due: datetime
) -> Saga:
    query = select(sagas).where(sagas.c.booking_id == booking.booking_id)
    [before] = load_sagas(connection, connection.execute(query).all())
    after = before.cancelled(owner, now)
    row = {"owner": owner, "due_time": due, "start_time": now, **saga_columns(after)}
    _move(connection, before, row)
    update_booking(connection, before.booking, after.booking)
    return after


def _move(connection: Connection, before: Saga, row: dict[str, Any]) -> bool:
    """Change the stored saga if it still is the one that was read: compare and set."""
    read = {
        "this": before.booking.booking_id,
        "epoch_before": before.epoch,
        "owner_before": before.owner,
        "step_before": before.step.value,
    }
    return connection.execute(_MOVE, read | row).rowcount == 1
