"""How many bookings an instance begins, when it can't finish them in time."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

import grpc
import pytest

from consulmesh.errors import Status
from flights.booking.v1 import booking_pb2 as pb
from tests.booking.system import FAST, System
from tests.fakes.faults import Fault, Gate

FEW = replace(FAST, fewest=2, most=2)
NOTHING_IS_IN_TIME = replace(FAST, in_time=timedelta(microseconds=1), fewest=1, most=4)


async def refused(call: Awaitable[pb.CreateBookingResponse]) -> Status:
    """What the call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return Status.of(raised.value)


async def test_no_more_is_begun_than_can_be_finished(system: System) -> None:
    """With as many under way as there may be, one more is refused and has left no trace.

    The two go on, may be asked for again meanwhile, and what was refused is booked afterwards.
    """
    instance = await system.start(FEW)
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate), Fault(gate=gate))
    requests = [await system.request(passengers=1) for _ in range(3)]
    create, user = instance.stub.CreateBooking, system.user()

    begun = [create(request, metadata=user) for request in requests[:2]]
    while system.schedule.faults.calls["HoldSeats"] < 2:
        await asyncio.wait_for(gate.reached.wait(), 10)
        await asyncio.sleep(0)
    status = await refused(create(requests[2], metadata=user))
    again = create(requests[0], metadata=user)
    asked = await instance.stub.ListBookings(pb.ListBookingsRequest(), metadata=user)
    gate.open()
    made = [(await call).booking for call in (*begun, again)]
    late = (await create(requests[2], metadata=user)).booking

    assert (status.code, status.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert status.retry_after is not None
    assert len(asked.bookings) == 2
    assert [one.status for one in (*made, late)] == [pb.BOOKING_STATUS_CONFIRMED] * 4
    assert made[2].booking_id == made[0].booking_id
    assert late.booking_id not in {one.booking_id for one in made}
    await system.check(instance)


async def test_sagas_that_are_late_lower_how_many_there_may_be(system: System) -> None:
    """Where every saga takes too long, only the fewest may be under way at last, and no fewer."""
    instance = await system.start(NOTHING_IS_IN_TIME)
    for _ in range(40):
        booking = await system.book(instance, passengers=1)
        assert booking.status in {pb.BOOKING_STATUS_CONFIRMED, pb.BOOKING_STATUS_REJECTED}
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    first, second = [await system.request(passengers=1) for _ in range(2)]
    under_way = instance.stub.CreateBooking(first, metadata=system.user())
    await asyncio.wait_for(gate.reached.wait(), 10)
    status = await refused(instance.stub.CreateBooking(second, metadata=system.user()))
    gate.open()
    await under_way

    assert status.reason == "OVERLOADED"
    await system.check(instance)
