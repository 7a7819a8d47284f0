"""News of bookings for those who wait for one, whichever process changed it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, Row, bindparam, func, select

from booking.domain import Booking
from booking.tables import outbox
from eventstream import Database, DatabaseClosedError, StorageUnavailableError
from flights.booking.v1 import booking_pb2 as pb

_log = structlog.get_logger()

_LINGER = timedelta(milliseconds=10)  # between two looks: a busy database commits all the time
_PAUSE = timedelta(seconds=1)  # after a failed look

_event = outbox.events.c
_AFTER = (
    select(_event.seq, _event.key, _event.payload)
    .where(_event.seq > bindparam("position"))
    .order_by(_event.seq)
)


class News:
    """What one waiter is told about its booking; only the newest counts."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._newest: Booking | None = None

    def tell(self, booking: Booking) -> None:
        """There is a new state, this one."""
        self._newest = booking
        self._told.set()

    def stir(self, version: int | None) -> None:
        """There is a new state of this version, if that is known, which must be read."""
        if version is None or self._newest is None or self._newest.version < version:
            self._newest = None
            self._told.set()

    async def next(self) -> Booking | None:
        """Wait for a new state; None where it must be read. It may be one that is known."""
        await self._told.wait()
        self._told.clear()
        return self._newest


class Changes:
    """Reads the booking outbox as others let it grow and wakes those who wait for one of its keys.

    What this process stores it is told, and need not read.

    State: `_waiting`, whom to tell, by booking and in the order they came in.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: defaultdict[str, list[News]] = defaultdict(list)

    @contextmanager
    def of(self, booking_id: str) -> Iterator[News]:
        """News of a booking from now on."""
        news = News()
        self._waiting[booking_id].append(news)
        try:
            yield news
        finally:
            self._waiting[booking_id].remove(news)
            if not self._waiting[booking_id]:
                del self._waiting[booking_id]

    def tell(self, booking: Booking) -> None:
        """Pass on a state that this process has just stored: nobody here needs to read it."""
        for news in self._waiting.get(booking.booking_id, ()):
            news.tell(booking)

    async def run(self) -> None:
        """Follow the outbox until the database is closed: others' changes are told in 20 ms."""
        with suppress(DatabaseClosedError):
            await self._follow()

    async def _follow(self) -> None:
        position: int | None = None
        while True:
            seen = self._db.elsewhere
            try:
                position = await self._look(position)
            except StorageUnavailableError as error:
                _log.warning("outbox_unreadable", error=str(error))
                await asyncio.sleep(_PAUSE.total_seconds())
                continue
            await asyncio.sleep(_LINGER.total_seconds())
            await self._db.changed_elsewhere(seen)

    async def _look(self, position: int | None) -> int:
        if position is None:  # unknown what has happened so far: everybody looks for themselves
            end = await self._db.read(_end)
            self._stir(dict.fromkeys(self._waiting))
            return end
        rows = await self._db.read(lambda connection: _after(connection, position))
        told = {row.key: row.payload for row in rows if row.key in self._waiting}
        self._stir({key: _version(payload) for key, payload in told.items()})
        return max((row.seq for row in rows), default=position)

    def _stir(self, versions: Mapping[str, int | None]) -> None:
        for booking_id, version in versions.items():
            for news in self._waiting[booking_id]:
                news.stir(version)


def _end(connection: Connection) -> int:
    return connection.execute(select(func.max(outbox.events.c.seq))).scalar() or 0


def _after(connection: Connection, position: int) -> Sequence[Row[Any, Any, Any]]:
    return connection.execute(_AFTER, {"position": position}).all()


def _version(payload: bytes) -> int:
    return pb.BookingEvent.FromString(payload).booking_changed.version
