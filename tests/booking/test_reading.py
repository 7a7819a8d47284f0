import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import grpc
import pytest

from consulmesh.errors import Status
from flights.booking.v1 import booking_pb2 as pb
from streams.v1 import stream_pb2
from tests.booking.system import Instance, System
from tests.fakes.faults import Fault, Gate

Metadata = Sequence[tuple[str, str]]
RPCS = {
    "CreateBooking": pb.CreateBookingRequest(),
    "GetBooking": pb.GetBookingRequest(),
    "ListBookings": pb.ListBookingsRequest(),
    "CancelBooking": pb.CancelBookingRequest(),
    "WatchBooking": pb.WatchBookingRequest(),
}


async def refusal(
    instance: Instance, method: str, request: object, metadata: Metadata
) -> tuple[grpc.StatusCode, str]:
    """The code and the reason with which a call is refused."""
    call = getattr(instance.stub, method)(request, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await (call.read() if method.startswith("Watch") else call)
    status = Status.of(raised.value)
    return status.code, status.reason


async def pages(system: System, instance: Instance, size: int) -> list[list[str]]:
    """The ids of Ann's bookings, page by page."""
    found: list[list[str]] = []
    request = pb.ListBookingsRequest(page_size=size)
    while True:
        page = await instance.stub.ListBookings(request, metadata=system.user())
        found.append([booking.booking_id for booking in page.bookings])
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest.mark.parametrize("method", RPCS)
async def test_without_a_token(system: System, method: str) -> None:
    """Nothing is said without a token, or with one that is no good."""
    instance = await system.start()

    statuses = [
        await refusal(instance, method, RPCS[method], metadata)
        for metadata in ([], [("authorization", "Bearer no.good.token")])
    ]

    assert statuses == [
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"),
    ]


async def test_booking_needs_a_customer(system: System) -> None:
    """A user without the role customer can't book."""
    instance = await system.start()
    request = await system.request()

    code, _ = await refusal(instance, "CreateBooking", request, system.user("olga", "operator"))

    assert code is grpc.StatusCode.PERMISSION_DENIED
    await system.check(instance)


async def test_get(system: System) -> None:
    """A user gets their own booking, and nobody else does."""
    instance = await system.start()
    booking = await system.book(instance)
    request = pb.GetBookingRequest(booking_id=booking.booking_id)

    found = (await instance.stub.GetBooking(request, metadata=system.user())).booking
    status = await refusal(instance, "GetBooking", request, system.user("bob"))

    assert found == booking
    assert status == (grpc.StatusCode.NOT_FOUND, "BOOKING_NOT_FOUND")


async def test_watch_of_others(system: System) -> None:
    """Nobody watches another user's booking."""
    instance = await system.start()
    booking = await system.book(instance)
    request = pb.WatchBookingRequest(booking_id=booking.booking_id)

    status = await refusal(instance, "WatchBooking", request, system.user("bob"))

    assert status == (grpc.StatusCode.NOT_FOUND, "BOOKING_NOT_FOUND")


async def test_pages(system: System) -> None:
    """Pages of any size list the user's bookings once each, newest first."""
    instance = await system.start()
    booked = [(await system.book(instance, 1)).booking_id for _ in range(5)]
    others = await system.request(passengers=1)
    await instance.stub.CreateBooking(others, metadata=system.user("bob"))

    twos = await pages(system, instance, 2)
    fives = await pages(system, instance, 5)

    newest_first = booked[::-1]
    assert twos == [newest_first[:2], newest_first[2:4], newest_first[4:]]
    assert fives == [newest_first]


async def test_no_bookings(system: System) -> None:
    """A user without bookings has one empty page."""
    instance = await system.start()

    assert await pages(system, instance, 0) == [[]]


@pytest.mark.parametrize("token", ["?", "bm8=", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5IGJrZw==", "ü"])
async def test_page_token_of_nobody(system: System, token: str) -> None:
    """A page token that was made up is refused."""
    instance = await system.start()
    request = pb.ListBookingsRequest(page_token=token)

    status = await refusal(instance, "ListBookings", request, system.user())

    assert status == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize("size", [-1, 101, 2**31 - 1])
async def test_page_size(system: System, size: int) -> None:
    """A page size out of range is refused."""
    instance = await system.start()
    request = pb.ListBookingsRequest(page_size=size)

    status = await refusal(instance, "ListBookings", request, system.user())

    assert status == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")


async def test_watch(system: System) -> None:
    """A watcher at another instance sees each state, and the end when the booking is settled."""
    instances = [await system.start(), await system.start()]
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    request = await system.request()
    request.wait.FromTimedelta(timedelta(0))
    pending = await instances[0].stub.CreateBooking(request, metadata=system.user())
    await gate.reached.wait()
    watch = instances[1].stub.WatchBooking(
        pb.WatchBookingRequest(booking_id=pending.booking.booking_id), metadata=system.user()
    )
    responses = aiter(watch)
    states = [(await anext(responses)).booking]
    gate.open()
    states += [response.booking async for response in responses]

    assert [one.status for one in states] == [
        pb.BOOKING_STATUS_PENDING,
        pb.BOOKING_STATUS_CONFIRMED,
    ]
    assert [one.version for one in states] == [2, 3]


async def test_events(system: System) -> None:
    """Other services learn of each change from any instance, and of no person."""
    instances = [await system.start(), await system.start()]
    before = await system.book(instances[0])
    call = instances[1].stub.WatchBookingEvents(pb.WatchBookingEventsRequest())
    stream = aiter(call)
    changes: list[pb.BookingChanged] = []
    try:
        async with asyncio.timeout(10):
            changes += await _until(stream, stream_pb2.PHASE_SNAPSHOT_COMPLETED)
            after = await system.book(instances[0])
            while len(changes) < 4:
                changes += await _until(stream, stream_pb2.PHASE_EVENTS)
    finally:
        call.cancel()

    assert [(one.booking_id, one.version) for one in changes] == [
        (before.booking_id, 3),
        (after.booking_id, 1),
        (after.booking_id, 2),
        (after.booking_id, 3),
    ]
    assert changes[-1] == pb.BookingChanged(
        booking_id=after.booking_id,
        version=3,
        status=pb.BOOKING_STATUS_CONFIRMED,
        segments=after.segments,
        passengers=2,
    )


async def test_events_of_changes_only(system: System) -> None:
    """Who wants no rows is not told of bookings that were made before."""
    instance = await system.start()
    await system.book(instance)
    call = instance.stub.WatchBookingEvents(pb.WatchBookingEventsRequest(changes_only=True))
    stream = aiter(call)
    try:
        async with asyncio.timeout(10):
            before = await _until(stream, stream_pb2.PHASE_SNAPSHOT_COMPLETED)
            booking = await system.book(instance)
            after = await _until(stream, stream_pb2.PHASE_EVENTS)
    finally:
        call.cancel()

    assert before == []
    assert {one.booking_id for one in after} == {booking.booking_id}


async def _until(
    stream: AsyncIterator[pb.WatchBookingEventsResponse], phase: stream_pb2.Phase.ValueType
) -> list[pb.BookingChanged]:
    changes: list[pb.BookingChanged] = []
    async for response in stream:
        changes += [event.booking_changed for event in response.events]
        if response.phase == phase:
            break
    return changes


INVALID = [
    ("request_id", "", "REQUIRED"),
    ("request_id", "x" * 256, "INVALID_FORMAT"),
    ("request_id", "schlüssel", "INVALID_FORMAT"),
    ("request_id", "a\nb", "INVALID_FORMAT"),
    ("quote_id", "", "REQUIRED"),
    ("quote_id", "q" * 65, "INVALID_FORMAT"),
    ("quote_id", "quo_é", "INVALID_FORMAT"),
    ("contact.email", "", "REQUIRED"),
    ("contact.email", "nobody", "INVALID_FORMAT"),
    ("contact.email", "a@b", "INVALID_FORMAT"),
    ("contact.email", "a@b..c", "INVALID_FORMAT"),
    ("contact.email", "a" * 250 + "@b.cc", "TOO_LONG"),
    ("passengers[0].given_name", " ", "REQUIRED"),
    ("passengers[1].family_name", "x" * 101, "TOO_LONG"),
    ("passengers[1].family_name", "a\u202eb", "INVALID_CHARACTERS"),
]


@pytest.mark.parametrize(("field", "value", "reason"), INVALID)
async def test_invalid_request(system: System, field: str, value: str, reason: str) -> None:
    """A field that is wrong is named, with what is wrong, and nothing is stored."""
    instance = await system.start()
    request = await system.request()
    _set(request, field, value)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await instance.stub.CreateBooking(request, metadata=system.user())

    status = Status.of(raised.value)
    assert (status.code, status.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "VALIDATION_FAILED",
    )
    assert [(one.field, one.reason) for one in status.violations] == [(field, reason)]
    await system.check(instance)


def _set(request: pb.CreateBookingRequest, field: str, value: str) -> None:
    match field.split("."):
        case [name]:
            setattr(request, name, value)
        case ["contact", name]:
            setattr(request.contact, name, value)
        case [passenger, name]:
            setattr(request.passengers[int(passenger[-2])], name, value)


@pytest.mark.parametrize("count", [0, 10])
async def test_size_of_the_party(system: System, count: int) -> None:
    """One to nine travel on a booking."""
    instance = await system.start()
    request = await system.request(passengers=1)
    del request.passengers[:]
    request.passengers.extend(
        [pb.Passenger(given_name="Ann", family_name="Lee") for _ in range(count)]
    )

    status = await refusal(instance, "CreateBooking", request, system.user())

    assert status == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
    await system.check(instance)


async def test_watch_with_a_deadline(system: System) -> None:
    """A watcher with a deadline is told when it is over."""
    instance = await system.start()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    request = await system.request()
    request.wait.FromTimedelta(timedelta(0))
    pending = await instance.stub.CreateBooking(request, metadata=system.user())
    watch = instance.stub.WatchBooking(
        pb.WatchBookingRequest(booking_id=pending.booking.booking_id),
        metadata=system.user(),
        timeout=0.3,
    )

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        _ = [response async for response in watch]
    gate.open()

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await system.check(instance)
