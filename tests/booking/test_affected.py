import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import select

from booking import cancelled_flights
from booking.domain import Booking, Status
from booking.rows import load_bookings
from booking.tables import bookings, inbox, outbox
from booking.tables import cancelled_flights as cancelled_table
from flights.booking.v1 import booking_pb2 as pb
from tests.booking.system import FLIGHTS, Instance, System
from tests.fakes.faults import LOST_REPLY, Fault, Gate


@pytest.fixture
def booking_url(database_url: str) -> str:
    """Each engine."""
    return database_url


async def known(instance: Instance) -> set[str]:
    """The flights that booking knows to be cancelled."""
    query = select(cancelled_table.c.flight_id)
    return set(await instance.db.read(lambda connection: connection.execute(query).scalars()))


async def until(instance: Instance, holds: Callable[[list[Booking], set[str]], bool]) -> None:
    """Wait until something holds of all bookings and of the flights known to be cancelled."""
    async with asyncio.timeout(30):
        while True:
            seen = instance.db.version
            found = await instance.db.read(
                lambda connection: load_bookings(
                    connection, connection.execute(select(bookings)).all()
                )
            )
            if holds(found, await known(instance)):
                return
            await instance.db.changed(seen)


async def affected(instance: Instance, count: int) -> None:
    """Wait until so many bookings are affected."""
    await until(
        instance, lambda found, _: [one.status for one in found].count(Status.AFFECTED) == count
    )


async def test_booked_then_cancelled(system: System) -> None:
    """A confirmed booking whose flight is cancelled is affected, and keeps what it was sold."""
    instance = await system.start(follows=True)
    booked = await system.book(instance)
    other = await system.book(instance)

    system.schedule.cancel(FLIGHTS[1])
    await affected(instance, 2)
    response = await instance.stub.GetBooking(
        pb.GetBookingRequest(booking_id=booked.booking_id), metadata=system.user()
    )

    expected = pb.Booking()
    expected.CopyFrom(booked)
    expected.status = pb.BOOKING_STATUS_AFFECTED
    expected.version += 1
    expected.update_time.CopyFrom(response.booking.update_time)
    assert response.booking == expected
    assert other.booking_id != booked.booking_id
    await system.check(instance)


async def test_other_flights(system: System) -> None:
    """Bookings of other flights are left alone."""
    instance = await system.start(follows=True)
    booked = await system.book(instance)

    system.schedule.cancel(FLIGHTS[2])
    await until(instance, lambda _, flights: flights == {FLIGHTS[2]})
    request = pb.GetBookingRequest(booking_id=booked.booking_id)

    assert (await instance.stub.GetBooking(request, metadata=system.user())).booking == booked


async def test_cancelled_while_confirming(system: System) -> None:
    """News that come between the sale and its record are not lost: confirmed, then affected."""
    instance = await system.start(follows=True)
    gate = Gate()
    system.schedule.faults.plan("ConfirmHold", LOST_REPLY, Fault(gate=gate))
    request = await system.request()
    call = asyncio.ensure_future(_response(system, instance, request))
    await gate.reached.wait()
    system.schedule.cancel(FLIGHTS[0])
    await until(instance, lambda _, flights: FLIGHTS[0] in flights)
    gate.open()

    booking = (await call).booking

    assert booking.status == pb.BOOKING_STATUS_AFFECTED
    assert await statuses(instance, booking.booking_id) == [
        pb.BOOKING_STATUS_PENDING,
        pb.BOOKING_STATUS_PENDING,
        pb.BOOKING_STATUS_CONFIRMED,
        pb.BOOKING_STATUS_AFFECTED,
    ]
    await system.check(instance)


async def _response(
    system: System, instance: Instance, request: pb.CreateBookingRequest
) -> pb.CreateBookingResponse:
    return await instance.stub.CreateBooking(request, metadata=system.user())


async def statuses(instance: Instance, booking_id: str) -> list[pb.BookingStatus.ValueType]:
    """What was told of a booking, in order."""
    query = select(outbox.events.c.payload).where(outbox.events.c.key == booking_id)
    rows = await instance.db.read(
        lambda connection: connection.execute(query.order_by(outbox.events.c.seq)).scalars().all()
    )
    return [pb.BookingEvent.FromString(row).booking_changed.status for row in rows]


async def test_cancelled_before_confirmation(system: System) -> None:
    """A flight that schedule cancels before the pivot rejects the booking, as ever."""
    instance = await system.start(follows=True)
    gate = Gate()
    system.schedule.faults.plan("ConfirmHold", Fault(gate=gate))
    request = await system.request()
    call = asyncio.ensure_future(_response(system, instance, request))
    await gate.reached.wait()
    system.schedule.cancel(FLIGHTS[0])
    gate.open()

    booking = (await call).booking

    assert booking.rejection.reason == "FLIGHT_CANCELLED"
    await system.check(instance)


async def test_watchers_elsewhere(system: System) -> None:
    """Who watches at an instance that does not follow schedule sees the booking as affected."""
    leader = await system.start(follows=True)
    other = await system.start(follows=True)
    booked = await system.book(other)
    system.schedule.cancel(FLIGHTS[0])
    await affected(leader, 1)
    watch = other.stub.WatchBooking(
        pb.WatchBookingRequest(booking_id=booked.booking_id), metadata=system.user()
    )

    states = [response.booking async for response in watch]

    assert [one.status for one in states] == [pb.BOOKING_STATUS_AFFECTED]
    assert (await statuses(other, booked.booking_id))[-1] == pb.BOOKING_STATUS_AFFECTED


async def test_given_back(system: System) -> None:
    """An affected booking is cancelled free of charge, and its seats are given back."""
    instance = await system.start(follows=True)
    booked = await system.book(instance)
    system.schedule.cancel(FLIGHTS[0])
    await affected(instance, 1)
    request = pb.CancelBookingRequest(request_id="cancel", booking_id=booked.booking_id)

    cancelled = (await instance.stub.CancelBooking(request, metadata=system.user())).booking

    assert cancelled.status == pb.BOOKING_STATUS_CANCELLED
    assert cancelled.total == booked.total
    await system.check(instance)
    assert not system.schedule.taken()


async def test_given_back_before(system: System) -> None:
    """A booking that was cancelled by its user is not affected any more."""
    instance = await system.start(follows=True)
    given, kept = await system.book(instance), await system.book(instance)
    request = pb.CancelBookingRequest(request_id="cancel", booking_id=given.booking_id)
    await instance.stub.CancelBooking(request, metadata=system.user())

    system.schedule.cancel(FLIGHTS[0])
    await affected(instance, 1)

    assert (await statuses(instance, given.booking_id))[-1] == pb.BOOKING_STATUS_CANCELLED
    assert (await statuses(instance, kept.booking_id))[-1] == pb.BOOKING_STATUS_AFFECTED


async def test_takeover(system: System) -> None:
    """When the instance that follows schedule dies, another goes on where it stood."""
    dying = await system.start(follows=True)
    booked = await system.book(dying)
    await followed(system, dying)
    await dying.crash()
    system.schedule.cancel(FLIGHTS[0])

    instance = await system.start(follows=True)
    await affected(instance, 1)

    assert (await statuses(instance, booked.booking_id))[-1] == pb.BOOKING_STATUS_AFFECTED


async def test_part_after_part(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flight with many bookings is worked off in short units, each booking once."""
    monkeypatch.setattr(cancelled_flights, "AFFECTED_AT_A_TIME", 2)
    instance = await system.start(follows=True)
    booked = [await system.book(instance, 1) for _ in range(7)]
    before = instance.db.version

    system.schedule.cancel(FLIGHTS[0])
    await affected(instance, 7)

    told = [await statuses(instance, one.booking_id) for one in booked]
    assert {one.count(pb.BOOKING_STATUS_AFFECTED) for one in told} == {1}
    assert instance.db.version - before >= 4
    await system.check(instance)


async def test_snapshot(system: System) -> None:
    """A cancellation that happened while nobody followed schedule is found in the snapshot."""
    booked = await system.book(await system.start())
    system.schedule.cancel(FLIGHTS[0])

    instance = await system.start(follows=True)
    await affected(instance, 1)

    assert (await statuses(instance, booked.booking_id))[-1] == pb.BOOKING_STATUS_AFFECTED


async def test_removed_flight(system: System) -> None:
    """A cancelled flight that leaves the timetable in the same moment is not forgotten."""
    instance = await system.start(follows=True)
    booked = await system.book(instance)
    await followed(system, instance)
    system.schedule.cancel(FLIGHTS[0])
    system.schedule.remove(FLIGHTS[0])

    await affected(instance, 1)

    assert (await statuses(instance, booked.booking_id))[-1] == pb.BOOKING_STATUS_AFFECTED
    assert system.schedule.faults.calls["WatchFlights"] == 1


async def followed(system: System, instance: Instance) -> None:
    """Wait until a snapshot of schedule's flights has been taken."""
    query = select(inbox.position.c.epoch).where(inbox.position.c.epoch == system.schedule.stream)
    async with asyncio.timeout(30):
        while True:
            seen = instance.db.version
            if await instance.db.read(lambda connection: connection.execute(query).first()):
                return
            await instance.db.changed(seen)


async def test_another_history(system: System) -> None:
    """After a restored backup, a flight that is not cancelled there is none that is cancelled."""
    instance = await system.start(follows=True)
    booked = await system.book(instance)
    system.schedule.cancel(FLIGHTS[0])
    await affected(instance, 1)

    system.schedule.restore("two")
    await until(instance, lambda _, flights: not flights)
    await followed(system, instance)
    again = await system.book(instance)

    assert again.status == pb.BOOKING_STATUS_CONFIRMED
    assert (await statuses(instance, booked.booking_id))[-1] == pb.BOOKING_STATUS_AFFECTED
