import asyncio
from datetime import timedelta

import grpc
import pytest

from consulmesh.errors import Status
from flights.booking.v1 import booking_pb2 as pb
from flights.schedule.v1 import schedule_pb2
from tests.booking.system import Instance, System
from tests.fakes.faults import LOST_REPLY, UNREACHABLE, Fault, Gate, refused


@pytest.fixture
def booking_url(database_url: str) -> str:
    """Each engine."""
    return database_url


async def cancel(
    system: System, instance: Instance, booking_id: str, request_id: str = "cancel"
) -> pb.Booking:
    """Cancel as Ann."""
    request = pb.CancelBookingRequest(request_id=request_id, booking_id=booking_id)
    return (await instance.stub.CancelBooking(request, metadata=system.user())).booking


async def refusal(
    system: System, instance: Instance, booking_id: str, request_id: str = "cancel"
) -> tuple[grpc.StatusCode, str]:
    """The code and the reason with which a cancellation is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await cancel(system, instance, booking_id, request_id)
    status = Status.of(raised.value)
    return status.code, status.reason


async def test_seats_are_given_back(system: System) -> None:
    """A cancelled booking has no seats, and its quote can't be used again."""
    instance = await system.start()
    booking = await system.book(instance)

    cancelled = await cancel(system, instance, booking.booking_id)

    assert cancelled.status == pb.BOOKING_STATUS_CANCELLED
    assert cancelled.version == booking.version + 1
    assert cancelled.total == booking.total
    await system.check(instance)
    assert not system.schedule.taken()


@pytest.mark.parametrize("fault", [UNREACHABLE, LOST_REPLY], ids=["unreachable", "lost_reply"])
async def test_release_is_tried_until_done(system: System, fault: Fault) -> None:
    """Seats are given back however often that fails."""
    instance = await system.start()
    booking = await system.book(instance)
    system.schedule.faults.plan("ReleaseHold", *[fault] * 4)

    await cancel(system, instance, booking.booking_id)

    await system.check(instance)
    assert system.schedule.faults.calls["ReleaseHold"] == 5


async def test_release_outlives_its_instance(system: System) -> None:
    """A cancellation that was acknowledged is carried out, also if its instance dies at once."""
    gate = Gate()
    dying = await system.start()
    booking = await system.book(dying)
    system.schedule.faults.plan("ReleaseHold", Fault(gate=gate))
    await cancel(system, dying, booking.booking_id)
    await gate.reached.wait()
    await dying.crash()
    gate.open()
    instance = await system.start()
    await system.check(instance)
    request = pb.GetBookingRequest(booking_id=booking.booking_id)
    shown = (await instance.stub.GetBooking(request, metadata=system.user())).booking

    assert shown.status == pb.BOOKING_STATUS_CANCELLED
    assert not system.schedule.taken()


async def test_repetition(system: System) -> None:
    """Cancelling twice, with the same request id or another, changes nothing further."""
    instance = await system.start()
    booking = await system.book(instance)
    first = await cancel(system, instance, booking.booking_id)

    again = await cancel(system, instance, booking.booking_id)
    anew = await cancel(system, instance, booking.booking_id, "another")

    assert again == anew == first
    await system.check(instance)


async def test_many_at_once(system: System) -> None:
    """Concurrent cancellations over two instances are one."""
    instances = [await system.start(), await system.start()]
    booking = await system.book(instances[0])

    cancelled = await asyncio.gather(
        *(
            cancel(system, instances[number % 2], booking.booking_id, f"cancel-{number % 5}")
            for number in range(20)
        )
    )

    assert {one.version for one in cancelled} == {booking.version + 1}
    await system.check(instances[0])


async def test_request_id_of_another_booking(system: System) -> None:
    """A request id that has cancelled one booking can't cancel another."""
    instance = await system.start()
    first = await system.book(instance)
    second = await system.book(instance)
    await cancel(system, instance, first.booking_id)

    status = await refusal(system, instance, second.booking_id)

    assert status == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    await system.check(instance)


async def test_one_request_id_for_two_bookings_at_once(system: System) -> None:
    """Of two bookings that one request id is to cancel at once, one is, and one stays."""
    instances = [await system.start(), await system.start()]
    for number in range(5):
        bookings = [await system.book(instances[0], 1) for _ in instances]

        answers = await asyncio.gather(
            *(
                cancel(system, instance, booking.booking_id, f"cancel-{number}")
                for instance, booking in zip(instances, bookings, strict=True)
            ),
            return_exceptions=True,
        )

        [refused_one] = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
        [cancelled] = [one for one in answers if isinstance(one, pb.Booking)]
        assert Status.of(refused_one).reason == "REQUEST_ID_REUSED"
        assert cancelled.status == pb.BOOKING_STATUS_CANCELLED
    await system.check(instances[0])


async def test_rejected_booking(system: System) -> None:
    """What was rejected can't be cancelled, and the attempt leaves no trace."""
    instance = await system.start()
    system.schedule.faults.plan("HoldSeats", refused("SEATS_UNAVAILABLE"))
    booking = await system.book(instance)

    statuses = [await refusal(system, instance, booking.booking_id) for _ in range(2)]

    assert set(statuses) == {(grpc.StatusCode.FAILED_PRECONDITION, "BOOKING_NOT_CANCELLABLE")}
    await system.check(instance)


async def test_pending_booking(system: System) -> None:
    """A booking that is not settled yet can't be cancelled, and is settled none the less."""
    instance = await system.start()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    request = await system.request()
    request.wait.FromTimedelta(timedelta(0))
    pending = (await instance.stub.CreateBooking(request, metadata=system.user())).booking
    await gate.reached.wait()

    status = await refusal(system, instance, pending.booking_id)
    gate.open()

    assert status == (grpc.StatusCode.FAILED_PRECONDITION, "BOOKING_NOT_CANCELLABLE")
    await system.check(instance)
    assert system.schedule.taken(schedule_pb2.HOLD_STATE_CONFIRMED)


async def test_others_booking(system: System) -> None:
    """Another user's booking is not found."""
    instance = await system.start()
    booking = await system.book(instance)
    request = pb.CancelBookingRequest(request_id="cancel", booking_id=booking.booking_id)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await instance.stub.CancelBooking(request, metadata=system.user("bob"))

    assert Status.of(raised.value).reason == "BOOKING_NOT_FOUND"
    await system.check(instance)
