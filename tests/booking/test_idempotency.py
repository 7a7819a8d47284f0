import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import grpc
import pytest

from booking.domain import BookingRequest, RequestKey, User
from consulmesh.errors import Status
from flights.booking.v1 import booking_pb2 as pb
from tests.booking.system import System
from tests.fakes.faults import Fault, Gate, refused


@pytest.fixture
def booking_url(database_url: str) -> str:
    """Each engine."""
    return database_url


def changed(request: pb.CreateBookingRequest, **fields: str) -> pb.CreateBookingRequest:
    """A copy of a request with other text in some fields."""
    other = pb.CreateBookingRequest()
    other.CopyFrom(request)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


async def test_repetition(system: System) -> None:
    """The same key and content give the same booking, whichever instance is asked."""
    instances = [await system.start(), await system.start()]
    request = await system.request()

    bookings = [
        (await one.stub.CreateBooking(request, metadata=system.user())).booking
        for one in (*instances, *instances)
    ]

    assert all(booking == bookings[0] for booking in bookings)
    assert system.pricing.faults.calls["GetQuote"] == 1
    await system.check(instances[0])


async def test_fifty_at_once(system: System) -> None:
    """Of 50 concurrent repetitions over two instances one makes a booking, and all return it."""
    instances = [await system.start(), await system.start()]
    request = await system.request()

    responses = await asyncio.gather(
        *(
            instances[number % 2].stub.CreateBooking(request, metadata=system.user())
            for number in range(50)
        )
    )

    assert {one.booking.booking_id for one in responses} == {responses[0].booking.booking_id}
    assert {one.booking.status for one in responses} == {pb.BOOKING_STATUS_CONFIRMED}
    await system.check(instances[0])


async def test_repetition_of_a_rejection(system: System) -> None:
    """A rejection is as final as a confirmation: the same key returns it."""
    instance = await system.start()
    request = await system.request()
    system.schedule.faults.plan("HoldSeats", refused("SEATS_UNAVAILABLE"))

    first = await instance.stub.CreateBooking(request, metadata=system.user())
    second = await instance.stub.CreateBooking(request, metadata=system.user())

    assert first.booking.status == pb.BOOKING_STATUS_REJECTED
    assert second == first
    await system.check(instance)


async def test_repetition_while_pending(system: System) -> None:
    """A repetition joins the booking that is under way and waits for its outcome."""
    instances = [await system.start(), await system.start()]
    request = await system.request()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    first = instances[0].stub.CreateBooking(request, metadata=system.user())
    waiting = asyncio.ensure_future(_response(first))
    await gate.reached.wait()

    brief = pb.CreateBookingRequest()
    brief.CopyFrom(request)
    brief.wait.FromTimedelta(timedelta(milliseconds=300))
    second = await instances[1].stub.CreateBooking(brief, metadata=system.user())
    gate.open()
    third = await instances[1].stub.CreateBooking(request, metadata=system.user())

    assert second.booking.status == pb.BOOKING_STATUS_PENDING
    assert third.booking.status == pb.BOOKING_STATUS_CONFIRMED
    assert (await waiting) == third
    await system.check(instances[0])


async def _response(
    call: grpc.aio.UnaryUnaryCall[pb.CreateBookingRequest, pb.CreateBookingResponse],
) -> pb.CreateBookingResponse:
    return await call


@pytest.mark.parametrize(
    "change",
    [
        partial(changed, quote_id="quo_other"),
        lambda request: _with(request, lambda one: one.passengers.pop()),
        lambda request: _with(request, lambda one: one.passengers.reverse()),
        lambda request: _with(request, _rename),
        lambda request: _with(request, lambda one: setattr(one.contact, "email", "b@example.org")),
    ],
    ids=["quote", "fewer_passengers", "order", "name", "email"],
)
async def test_other_content(
    system: System, change: Callable[[pb.CreateBookingRequest], pb.CreateBookingRequest]
) -> None:
    """The same key with any other content is refused, and changes nothing."""
    instance = await system.start()
    request = await system.request()
    await instance.stub.CreateBooking(request, metadata=system.user())

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await instance.stub.CreateBooking(change(request), metadata=system.user())

    status = Status.of(raised.value)
    assert (status.code, status.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
    )
    await system.check(instance)


def _with(
    request: pb.CreateBookingRequest, act: Callable[[pb.CreateBookingRequest], object]
) -> pb.CreateBookingRequest:
    other = changed(request)
    act(other)
    return other


def _rename(request: pb.CreateBookingRequest) -> None:
    request.passengers[0].given_name = "Zoe"


async def test_white_space_is_no_content(system: System) -> None:
    """Content is compared in its canonical form."""
    instance = await system.start()
    request = await system.request()
    first = await instance.stub.CreateBooking(request, metadata=system.user())
    request.passengers[0].given_name += "  "

    second = await instance.stub.CreateBooking(request, metadata=system.user())

    assert second == first


async def test_own_space(system: System) -> None:
    """Another user's same key is another key."""
    instance = await system.start()
    anns = await system.request(request_id="one")
    bobs = await system.request(request_id="one")

    first = await instance.stub.CreateBooking(anns, metadata=system.user("ann"))
    second = await instance.stub.CreateBooking(bobs, metadata=system.user("bob"))

    assert first.booking.booking_id != second.booking.booking_id
    await system.check(instance)


def test_content_hash_separates_fields() -> None:
    """Characters that move from one field to the next make other content."""
    user = User(issuer="issuer", subject="ann")
    keys = [
        RequestKey.of_booking(
            user,
            BookingRequest.of(
                request_id="one", quote_id="quo_1", names=[names], email="a@example.org"
            ),
        )
        for names in (("Ann", "Lee"), ("An", "nLee"), ('Ann","Lee', "x"))
    ]

    assert len({key.content_hash for key in keys}) == 3
