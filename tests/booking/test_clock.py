import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flights.booking.v1 import booking_pb2 as pb
from flights.booking.v1.booking_pb2_grpc import BookingServiceStub
from tests.booking.system import FAST, System
from tests.fakes.faults import LOST_REPLY, Fault, Gate

STEPS = [timedelta(hours=1), timedelta(hours=-1), timedelta(days=1), timedelta(days=-1)]
SHORT = replace(FAST, lease=timedelta(milliseconds=300))


class Clock:
    """The wall clock, set forward or back by a test."""

    def __init__(self, offset: timedelta = timedelta()) -> None:
        self.offset = offset

    def __call__(self) -> datetime:
        """Now, as this clock believes."""
        return datetime.now(UTC) + self.offset


async def create(
    system: System, stub: BookingServiceStub, request: pb.CreateBookingRequest
) -> pb.Booking:
    """Book as Ann."""
    return (await stub.CreateBooking(request, metadata=system.user())).booking


@pytest.mark.parametrize("step", STEPS, ids=str)
@pytest.mark.parametrize("method", ["RedeemQuote", "HoldSeats", "ConfirmHold"])
async def test_step_during_a_saga(system: System, method: str, step: timedelta) -> None:
    """A clock that is set while a booking is under way settles it once: sold, or given up."""
    clocks = [Clock(), Clock()]
    instances = [await system.start(SHORT, clock=clock) for clock in clocks]
    owner = system.pricing if "Quote" in method else system.schedule
    gate = Gate()
    owner.faults.plan(method, LOST_REPLY, Fault(gate=gate), LOST_REPLY)
    request = await system.request()
    call = asyncio.ensure_future(create(system, instances[0].stub, request))
    await asyncio.wait_for(gate.reached.wait(), 30)
    for clock in clocks:
        clock.offset = step
    gate.open()

    booking = await call
    again = await create(system, instances[1].stub, request)

    sold, given_up = pb.BOOKING_STATUS_CONFIRMED, pb.BOOKING_STATUS_REJECTED
    may_give_up = method != "ConfirmHold" and step > SHORT.patience
    assert booking.status in ({sold, given_up} if may_give_up else {sold})
    assert again == booking
    await system.check(instances[0])


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_instances_disagree(system: System, step: timedelta) -> None:
    """Two instances whose clocks are far apart settle every booking, each once."""
    instances = [await system.start(SHORT), await system.start(SHORT, clock=Clock(step))]
    system.schedule.faults.plan("HoldSeats", *[LOST_REPLY] * 8)
    requests = [await system.request(passengers=1) for _ in range(12)]

    bookings = await asyncio.gather(
        *(
            create(system, instances[number % 2].stub, request)
            for number, request in enumerate(requests)
        )
    )

    settled = {pb.BOOKING_STATUS_CONFIRMED, pb.BOOKING_STATUS_REJECTED}
    assert {one.status for one in bookings} <= settled
    assert len({one.booking_id for one in bookings}) == len(requests)
    await system.check(instances[0])


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_takeover(system: System, step: timedelta) -> None:
    """What a dead instance began is finished by one whose clock says another day."""
    gate = Gate()
    system.schedule.faults.plan("ConfirmHold", Fault(gate=gate))
    dying = await system.start(SHORT)
    request = await system.request()
    call = asyncio.ensure_future(create(system, dying.stub, request))
    await asyncio.wait_for(gate.reached.wait(), 30)
    await dying.crash()
    gate.open()
    await asyncio.gather(call, return_exceptions=True)
    instance = await system.start(SHORT, clock=Clock(step))

    booking = await create(system, instance.stub, request)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


@pytest.mark.parametrize("step", STEPS, ids=str)
async def test_quote_and_acceptance(system: System, step: timedelta) -> None:
    """A quote is judged by the instant of acceptance: a clock ahead is a clean rejection."""
    instance = await system.start(clock=Clock(step))
    request = await system.request()

    booking = await create(system, instance.stub, request)

    ahead = step > system.pricing.lifetime
    expected = pb.BOOKING_STATUS_REJECTED if ahead else pb.BOOKING_STATUS_CONFIRMED
    assert booking.status == expected
    assert booking.rejection.reason == ("PRICE_CHANGED" if ahead else "")
    await system.check(instance)
