from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest
from sqlalchemy import Connection, select

from booking import cancelled_flights
from booking.tables import cancelled_flights as table
from booking.timed_work import TimedWork
from booking.timetable import SparseInbox, schedule_follower, schedule_inbox
from consulmesh.wellknown import timestamp
from eventstream import Database
from flights.schedule.v1 import schedule_pb2 as pb
from flights.schedule.v1.schedule_pb2_grpc import ScheduleServiceStub
from streams.v1.stream_pb2 import Cursor

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
DEPARTURE = NOW + timedelta(days=3)


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """An empty database of the newest schema, on each engine."""
    async with Database.open(database_url, migrations="booking:migrations") as opened:
        yield opened


def now() -> datetime:
    """The instant of these tests."""
    return NOW


def changed(flight_id: str, *, cancelled: bool, departure: datetime = DEPARTURE) -> pb.FlightEvent:
    """An event of a flight."""
    status = pb.FLIGHT_STATUS_CANCELLED if cancelled else pb.FLIGHT_STATUS_SCHEDULED
    flight = pb.Flight(
        flight_id=flight_id, status=status, version=1, departure_time=timestamp(departure)
    )
    return pb.FlightEvent(flight_changed=flight)


def removed(flight_id: str) -> pb.FlightEvent:
    """A flight has left the timetable."""
    return pb.FlightEvent(flight_removed=pb.FlightRemoved(flight_id=flight_id, version=2))


def at(seq: int) -> Cursor:
    """A position."""
    return Cursor(epoch="one", seq=seq)


def cancelled(connection: Connection) -> dict[str, bool]:
    """The flights that are known to be cancelled; whether their bookings are still to be marked."""
    rows = connection.execute(select(table.c.flight_id, table.c.pending)).all()
    return {row.flight_id: row.pending for row in rows}


class Recording:
    """An inbox that notes what it is given."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, int | None]] = []

    async def position(self) -> Cursor | None:
        """Nothing is stored."""
        return None

    async def start_snapshot(self) -> None:
        """A snapshot begins."""

    async def apply(self, events: Sequence[pb.FlightEvent], cursor: Cursor | None) -> None:
        """Note how many events came, and up to where."""
        self.applied.append((len(events), None if cursor is None else cursor.seq))

    async def complete_snapshot(self, cursor: Cursor) -> None:
        """A snapshot ends."""


async def test_seats_are_no_news() -> None:
    """Events that cancel nothing are passed over; one that does is stored with all around it."""
    inner = Recording()
    inbox = SparseInbox(inner, clock=lambda: 0.0)

    await inbox.apply([changed("a", cancelled=False)], at(1))
    await inbox.apply([changed("a", cancelled=False), changed("b", cancelled=True)], at(3))
    await inbox.apply([removed("a")], at(4))
    await inbox.apply([changed("c", cancelled=False)], None)
    await inbox.apply([changed("b", cancelled=True)], None)

    assert inner.applied == [(2, 3), (1, None)]


async def test_position_is_stored_now_and_then() -> None:
    """A position is stored after a thousand events or five seconds, news or not."""
    inner = Recording()
    times = iter([0.0, 0.0, 4.9, 4.9, 9.8, 9.9, 9.9])
    inbox = SparseInbox(inner, clock=lambda: next(times))
    batch = [changed("a", cancelled=False)] * 500

    await inbox.apply(batch, at(500))
    await inbox.apply(batch, at(1_000))
    await inbox.apply(batch[:1], at(1_001))
    await inbox.apply(batch[:1], at(1_002))

    assert inner.applied == [(500, 1_000), (1, 1_002)]


async def test_repeated_events(db: Database) -> None:
    """A cancellation that comes again changes nothing: its bookings are not looked for again."""
    inbox = schedule_inbox(db, now)
    await inbox.position()
    await inbox.apply([changed("a", cancelled=True)], at(1))
    first = await db.read(cancelled)
    await db.write(lambda connection: cancelled_flights.affect(connection, "a", NOW))

    await inbox.apply([changed("a", cancelled=True), removed("a")], at(3))

    assert first == {"a": True}
    assert await db.read(cancelled) == {"a": False}


async def test_sweep(db: Database) -> None:
    """What a snapshot does not cancel flies after all, unless it is past or cancelled anew."""
    inbox = schedule_inbox(db, now)
    await inbox.position()
    past = changed("past", cancelled=True, departure=NOW - timedelta(hours=1))
    await inbox.apply([past, *(changed(one, cancelled=True) for one in "abc")], at(4))

    await inbox.start_snapshot()
    await inbox.apply([changed("a", cancelled=True), changed("b", cancelled=False)], None)
    await inbox.complete_snapshot(Cursor(epoch="two", seq=1))

    assert (await db.read(cancelled)).keys() == {"a", "past"}


async def test_forgotten(db: Database) -> None:
    """A flight is forgotten two months after its departure, not before its bookings are marked."""
    inbox = schedule_inbox(db, now)
    await inbox.position()
    old = NOW - timedelta(days=61)
    await inbox.apply([changed(one, cancelled=True, departure=old) for one in "ab"], at(2))
    await inbox.apply([changed("c", cancelled=True)], at(3))
    for flight_id in "ac":
        await db.write(partial(cancelled_flights.affect, flight_id=flight_id, now=NOW))
    async with grpc.aio.insecure_channel("localhost:1") as nobody:
        follower = schedule_follower(ScheduleServiceStub(nobody), inbox)

        forgotten = await TimedWork(db, inbox, follower, now).tidy()

    assert forgotten == 1
    assert await db.read(cancelled) == {"b": True, "c": False}
