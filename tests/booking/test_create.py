import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest

from consulmesh.errors import Status
from consulmesh.wellknown import amount
from flights.booking.v1 import booking_pb2 as pb
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.booking.system import CAPACITY, FAST, FLIGHTS, System
from tests.fakes.faults import LOST_REPLY, UNREACHABLE, Fault, Gate, refused
from tests.fakes.pricing import FARE, TAXES


async def status_of(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> tuple[grpc.StatusCode, str]:
    """The code and the reason that a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    status = Status.of(raised.value)
    return status.code, status.reason


async def test_confirmed(system: System) -> None:
    """A booking sells every seat of its flights at the quoted price."""
    instance = await system.start()
    request = await system.request(passengers=2)

    booking = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    assert booking.booking_id.startswith("bkg_")
    assert len(booking.reference) == 6
    assert [one.flight_id for one in booking.segments] == list(FLIGHTS[:2])
    assert amount(booking.segments[0].fare) == FARE
    assert amount(booking.total) == (FARE + TAXES) * 4
    assert booking.passengers == request.passengers
    assert booking.contact == request.contact
    await system.check(instance)


async def test_quote_decides_the_price(system: System) -> None:
    """The price is that of the quote that was redeemed, to the last digit."""
    instance = await system.start()
    request = await system.request()
    system.pricing.quotes[request.quote_id].total.nanos = 123_456_789

    booking = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert amount(booking.total) % 1 == Decimal("0.123456789")


REFUSALS = [
    ("RedeemQuote", "QUOTE_REDEEMED", "QUOTE_REDEEMED"),
    ("RedeemQuote", "QUOTE_RELEASED", "QUOTE_RELEASED"),
    ("HoldSeats", "SEATS_UNAVAILABLE", "SEATS_UNAVAILABLE"),
    ("HoldSeats", "FLIGHT_CANCELLED", "FLIGHT_CANCELLED"),
    ("HoldSeats", "FLIGHT_DEPARTED", "FLIGHT_DEPARTED"),
    ("HoldSeats", "HOLD_RELEASED", "SEATS_UNAVAILABLE"),
    ("ConfirmHold", "FLIGHT_CANCELLED", "FLIGHT_CANCELLED"),
    ("ConfirmHold", "HOLD_EXPIRED", "SEATS_UNAVAILABLE"),
    ("ConfirmHold", "HOLD_RELEASED", "SEATS_UNAVAILABLE"),
]


@pytest.mark.parametrize(("method", "theirs", "ours"), REFUSALS)
async def test_refused(system: System, method: str, theirs: str, ours: str) -> None:
    """A definite no anywhere gives back everything and says why."""
    instance = await system.start()
    owner = system.pricing if method == "RedeemQuote" else system.schedule
    owner.faults.plan(method, refused(theirs))

    booking = await system.book(instance)

    assert booking.status == pb.BOOKING_STATUS_REJECTED
    assert booking.rejection.reason == ours
    await system.check(instance)


async def test_price_changed(system: System) -> None:
    """An expired quote is PRICE_CHANGED with a fresh one, which can be booked."""
    instance = await system.start()
    request = await system.request()
    system.pricing.expire(request.quote_id)
    rejected = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    again = pb.CreateBookingRequest()
    again.CopyFrom(request)
    again.request_id = "again"
    again.quote_id = rejected.rejection.fresh_quote_id
    booking = (await instance.stub.CreateBooking(again, metadata=system.user())).booking

    assert rejected.rejection.reason == "PRICE_CHANGED"
    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


async def test_quote_of_another_booking(system: System) -> None:
    """Two bookings of one quote: one gets it, and the other's compensation does not free it."""
    instance = await system.start()
    first = await system.request()
    second = pb.CreateBookingRequest()
    second.CopyFrom(first)
    second.request_id = "another"

    bookings = [
        (await instance.stub.CreateBooking(request, metadata=system.user())).booking
        for request in (first, second)
    ]

    assert bookings[0].status == pb.BOOKING_STATUS_CONFIRMED
    assert bookings[1].rejection.reason == "QUOTE_REDEEMED"
    await system.check(instance)


async def test_last_seats(system: System) -> None:
    """More parties than seats: exactly the capacity is sold, the others are rejected."""
    instance = await system.start()
    requests = [await system.request(passengers=3) for _ in range(CAPACITY // 3 + 4)]

    bookings = await asyncio.gather(
        *(instance.stub.CreateBooking(one, metadata=system.user()) for one in requests)
    )

    statuses = [one.booking.status for one in bookings]
    assert statuses.count(pb.BOOKING_STATUS_CONFIRMED) == CAPACITY // 3
    assert statuses.count(pb.BOOKING_STATUS_REJECTED) == 4
    await system.check(instance)


STEPS = [("RedeemQuote", True), ("HoldSeats", True), ("ConfirmHold", True)]
UNDOING = [("ReleaseHold", False), ("ReleaseQuote", False)]


@pytest.mark.parametrize("fault", [UNREACHABLE, LOST_REPLY], ids=["unreachable", "lost_reply"])
@pytest.mark.parametrize(("method", "sells"), STEPS + UNDOING)
async def test_unknown_outcome(system: System, method: str, fault: Fault, *, sells: bool) -> None:
    """A step whose outcome is not known is asked again until it is: one effect, or none."""
    instance = await system.start()
    owner = system.pricing if "Quote" in method else system.schedule
    owner.faults.plan(method, fault, fault, fault)
    if not sells:
        system.schedule.faults.plan("HoldSeats", refused("SEATS_UNAVAILABLE"))

    booking = await system.book(instance)

    expected = pb.BOOKING_STATUS_CONFIRMED if sells else pb.BOOKING_STATUS_REJECTED
    assert booking.status == expected
    assert owner.faults.calls[method] == 4
    await system.check(instance)


async def test_nobody_answers(system: System) -> None:
    """An undecided booking is given up once its patience is over, and everything given back."""
    instance = await system.start(
        terms=replace(FAST, patience=timedelta(milliseconds=200)),
    )
    system.schedule.faults.always("HoldSeats", LOST_REPLY)

    booking = await system.book(instance)

    assert booking.rejection.reason == "UPSTREAM_UNAVAILABLE"
    await system.check(instance)


async def test_decided_commit_outlasts_patience(system: System) -> None:
    """Once commit is decided the saga asks for as long as it takes, whatever its patience."""
    instance = await system.start(terms=replace(FAST, patience=timedelta(0)))
    system.schedule.faults.plan("ConfirmHold", *[UNREACHABLE] * 8)

    booking = await system.book(instance)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


async def test_step_that_hangs(system: System) -> None:
    """A participant that does not answer in time is asked again."""
    instance = await system.start(deadline=0.2)
    system.schedule.faults.plan("HoldSeats", Fault(gate=Gate()))

    booking = await system.book(instance)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


async def test_client_goes_away(system: System) -> None:
    """A client that hangs up midway does not stop its booking."""
    instance = await system.start()
    request = await system.request()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))
    call = instance.stub.CreateBooking(request, metadata=system.user())
    await gate.reached.wait()
    call.cancel()
    gate.open()

    await system.check(instance)
    booking = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED


async def test_client_goes_away_at_once(system: System) -> None:
    """A call that is cancelled at any moment leaves one whole booking or none."""
    instance = await system.start()
    requests = [await system.request(passengers=1) for _ in range(15)]
    for tenth, request in enumerate(requests):
        call = instance.stub.CreateBooking(request, metadata=system.user())
        await asyncio.wait({asyncio.ensure_future(_wait(call))}, timeout=tenth / 1000)
        call.cancel()
    await system.check(instance)
    again = [
        (await instance.stub.CreateBooking(request, metadata=system.user())).booking
        for request in requests
    ]
    await system.check(instance)

    assert {one.status for one in again} == {pb.BOOKING_STATUS_CONFIRMED}
    assert len({one.booking_id for one in again}) == len(requests)
    assert system.schedule.taken() == Counter(
        {(flight, CABIN_ECONOMY): len(requests) for flight in FLIGHTS[:2]}
    )


async def _wait(call: grpc.aio.UnaryUnaryCall[Any, Any]) -> None:
    await call.code()


async def test_deadline_shorter_than_the_work(system: System) -> None:
    """PENDING comes shortly before the deadline; the booking is confirmed afterwards."""
    instance = await system.start()
    request = await system.request()
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))

    pending = (
        await instance.stub.CreateBooking(request, metadata=system.user(), timeout=2)
    ).booking
    gate.open()
    settled = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert pending.status == pb.BOOKING_STATUS_PENDING
    assert settled.status == pb.BOOKING_STATUS_CONFIRMED
    assert settled.booking_id == pending.booking_id
    await system.check(instance)


@pytest.mark.parametrize("wait", [timedelta(0), timedelta(milliseconds=300)])
async def test_caller_that_does_not_wait(system: System, wait: timedelta) -> None:
    """PENDING comes long before the deadline; the booking is there, and is confirmed afterwards."""
    instance = await system.start()
    request = await system.request()
    request.wait.FromTimedelta(wait)
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))

    pending = (
        await instance.stub.CreateBooking(request, metadata=system.user(), timeout=60)
    ).booking
    gate.open()
    request.ClearField("wait")
    settled = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert pending.status == pb.BOOKING_STATUS_PENDING
    assert settled.status == pb.BOOKING_STATUS_CONFIRMED
    assert settled.booking_id == pending.booking_id
    await system.check(instance)


async def test_wait_longer_than_the_deadline(system: System) -> None:
    """The deadline counts: PENDING comes before it."""
    instance = await system.start()
    request = await system.request()
    request.wait.FromTimedelta(timedelta(hours=1))
    gate = Gate()
    system.schedule.faults.plan("HoldSeats", Fault(gate=gate))

    pending = (
        await instance.stub.CreateBooking(request, metadata=system.user(), timeout=2)
    ).booking
    gate.open()

    assert pending.status == pb.BOOKING_STATUS_PENDING
    await system.check(instance)


async def test_unknown_quote(system: System) -> None:
    """A quote that does not exist is an error, and leaves no trace."""
    instance = await system.start()
    request = await system.request()
    request.quote_id = "quo_unknown"

    status = await status_of(instance.stub.CreateBooking(request, metadata=system.user()))

    assert status == (grpc.StatusCode.NOT_FOUND, "QUOTE_NOT_FOUND")
    await system.check(instance)


async def test_other_number_of_passengers(system: System) -> None:
    """A party of another size than the quote's is an error, and leaves no trace."""
    instance = await system.start()
    request = await system.request(passengers=2)
    del request.passengers[1]

    status = await status_of(instance.stub.CreateBooking(request, metadata=system.user()))

    assert status == (grpc.StatusCode.FAILED_PRECONDITION, "PASSENGER_COUNT_MISMATCH")
    await system.check(instance)


async def test_names_that_would_take_for_ever(system: System) -> None:
    """A name of marks without end, or passengers without end, is refused before it is gone through.

    Normalising takes time by the square of how many marks follow one another: hours, for these.
    """
    instance = await system.start()
    request = await system.request()
    marks = pb.CreateBookingRequest()
    marks.CopyFrom(request)
    marks.passengers[0].family_name = "e" + "\u0301\u0316" * 500_000
    many = pb.CreateBookingRequest()
    many.CopyFrom(request)
    many.passengers.extend(pb.Passenger() for _ in range(1_000_000))

    for wrong, field in ((marks, "passengers[0].family_name"), (many, "passengers")):
        call = instance.stub.CreateBooking(wrong, timeout=30, metadata=system.user())
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        status = Status.of(raised.value)
        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.violations[0].field == field


async def test_pricing_is_away(system: System) -> None:
    """Without pricing nothing is accepted: UNAVAILABLE, and the same key can be used later."""
    instance = await system.start()
    request = await system.request()
    system.pricing.faults.plan("GetQuote", UNREACHABLE)

    code, _ = await status_of(instance.stub.CreateBooking(request, metadata=system.user()))
    booking = (await instance.stub.CreateBooking(request, metadata=system.user())).booking

    assert code is grpc.StatusCode.UNAVAILABLE
    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    await system.check(instance)


async def test_quote_vanishes(system: System) -> None:
    """A quote that pricing has forgotten meanwhile is a rejection, and there is nothing to undo."""
    instance = await system.start()
    request = await system.request()
    gate = Gate()
    system.pricing.faults.plan("RedeemQuote", Fault(gate=gate))
    call = instance.stub.CreateBooking(request, metadata=system.user())
    waiting = asyncio.ensure_future(_wait(call))
    await gate.reached.wait()
    del system.pricing.quotes[request.quote_id]
    gate.open()
    await waiting

    assert (await call).booking.rejection.reason == "QUOTE_NOT_FOUND"
    await system.check(instance)
