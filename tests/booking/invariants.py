"""What must be true of bookings and of what they did elsewhere, once every saga has ended.

The letters are the invariants of the design: I2 one booking per key, I3 no seat sold twice, I5
every outcome is 0 or 1 effect, I6 the price is the quote's, I7 events gapless and true, I8 what is
not sold is given back.
"""

from collections import Counter

from sqlalchemy import Connection, select

from booking.domain import Booking, Status
from booking.rows import load_bookings
from booking.tables import bookings, idempotency_keys, outbox, sagas
from consulmesh.wellknown import amount
from flights.booking.v1 import booking_pb2 as pb
from flights.schedule.v1 import schedule_pb2
from flights.type.v1 import cabin_pb2
from tests.fakes.pricing import FakePricing
from tests.fakes.schedule import FakeSchedule, Seat

_STATUS = {
    Status.CONFIRMED: pb.BOOKING_STATUS_CONFIRMED,
    Status.REJECTED: pb.BOOKING_STATUS_REJECTED,
    Status.CANCELLED: pb.BOOKING_STATUS_CANCELLED,
    Status.AFFECTED: pb.BOOKING_STATUS_AFFECTED,
}


def check(connection: Connection, schedule: FakeSchedule, pricing: FakePricing) -> None:
    """Assert all of it."""
    found = load_bookings(connection, connection.execute(select(bookings)).all())
    _check_sagas(connection, found)
    _check_keys(connection, found)
    _check_seats(found, schedule)
    _check_quotes(found, pricing)
    _check_events(connection, found)


def _check_sagas(connection: Connection, found: list[Booking]) -> None:
    steps = Counter(connection.execute(select(sagas.c.step)).scalars())

    assert steps == ({"finished": len(found)} if found else {})
    assert all(booking.settled for booking in found)


def _check_keys(connection: Connection, found: list[Booking]) -> None:
    made = select(idempotency_keys.c.booking_id).where(
        idempotency_keys.c.operation == "CreateBooking"
    )

    assert sorted(connection.execute(made).scalars()) == sorted(one.booking_id for one in found)


def _check_seats(found: list[Booking], schedule: FakeSchedule) -> None:
    sold: Counter[Seat] = Counter()
    for booking in found:
        if booking.status in {Status.CONFIRMED, Status.AFFECTED}:
            for segment in booking.segments:
                cabin = cabin_pb2.Cabin.Value(f"CABIN_{segment.cabin.name}")
                sold[segment.flight_id, cabin] += len(booking.passengers)

    assert schedule.taken(schedule_pb2.HOLD_STATE_CONFIRMED) == sold
    assert not schedule.taken(schedule_pb2.HOLD_STATE_HELD)
    assert all(seats <= schedule.capacity[seat] for seat, seats in sold.items())


def _check_quotes(found: list[Booking], pricing: FakePricing) -> None:
    sold = {one.booking_id: one for one in found if one.status is not Status.REJECTED}
    redeemed = {one.booking_id: one for one in pricing.quotes.values() if one.booking_id}

    assert redeemed.keys() == sold.keys()
    assert all(amount(redeemed[id_].total) == booking.total for id_, booking in sold.items())


def _check_events(connection: Connection, found: list[Booking]) -> None:
    rows = connection.execute(select(outbox.events).order_by(outbox.events.c.seq)).all()
    versions: dict[str, int] = {}
    for row in rows:
        change = pb.BookingEvent.FromString(row.payload).booking_changed
        assert change.version == versions.get(change.booking_id, 0) + 1
        versions[change.booking_id] = change.version
    last = {row.key: pb.BookingEvent.FromString(row.payload).booking_changed for row in rows}

    assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
    assert {id_: change.status for id_, change in last.items()} == {
        one.booking_id: _STATUS[one.status] for one in found
    }
