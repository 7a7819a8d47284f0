"""News of bookings for those who wait for one, whichever process changed it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import structlog
from sqlalchemy import Connection, bindparam, func, select

from booking.domain import Booking
from booking.tables import outbox
from eventstream import Database, DatabaseClosedError, StorageUnavailableError

_log = structlog.get_logger()

_LINGER = timedelta(milliseconds=10)  # between two looks: a busy database commits all the time
_PAUSE = timedelta(seconds=1)  # after a failed look

_event = outbox.events.c
_AFTER = select(_event.seq, _event.key).where(_event.seq > bindparam("position"))


class News:
    """What one waiter is told about its booking; only the newest counts."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self._newest: Booking | None = None

    def tell(self, booking: Booking | None) -> None:
        """There is a new state: this one, or one that must be read."""
        self._newest = booking
        self._told.set()

    async def next(self) -> Booking | None:
        """Wait for a new state; None where it must be read. It may be one that is known."""
        await self._told.wait()
        self._told.clear()
        return self._newest


class Changes:
    """Reads the booking outbox as it grows and wakes those who wait for one of its keys.

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
            seen = self._db.version
            try:
                position = await self._look(position)
            except StorageUnavailableError as error:
                _log.warning("outbox_unreadable", error=str(error))
                await asyncio.sleep(_PAUSE.total_seconds())
                continue
            await asyncio.sleep(_LINGER.total_seconds())
            await self._db.changed(seen)

    async def _look(self, position: int | None) -> int:
        if position is None:  # unknown what has happened so far: everybody looks for themselves
            end = await self._db.read(_end)
            self._stir(self._waiting)
            return end
        end, keys = await self._db.read(lambda connection: _after(connection, position))
        self._stir([key for key in self._waiting if key in keys])
        return end

    def _stir(self, booking_ids: Iterable[str]) -> None:
        for booking_id in booking_ids:
            for news in self._waiting[booking_id]:
                news.tell(None)


def _end(connection: Connection) -> int:
    return connection.execute(select(func.max(outbox.events.c.seq))).scalar() or 0


def _after(connection: Connection, position: int) -> tuple[int, set[str]]:
    rows = connection.execute(_AFTER, {"position": position}).all()
    return max((row.seq for row in rows), default=position), {row.key for row in rows}
