import asyncio

import pytest

from consulmesh.wellknown import amount
from flights.booking.v1 import booking_pb2 as pb
from flights.schedule.v1 import schedule_pb2
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from tests.booking.system import CAPACITY, System
from tests.fakes.pricing import FARE, TAXES

JOURNEY = [f"flt_{number}" for number in range(12)]
OUT, BACK = ["flt_out", "flt_on"], ["flt_back", "flt_home"]


@pytest.fixture
def flights(system: System) -> System:
    """A system with enough flights for the longest journey."""
    system.schedule.capacity |= {(one, CABIN_ECONOMY): CAPACITY for one in (*JOURNEY, *OUT, *BACK)}
    return system


async def create(system: System, request: pb.CreateBookingRequest) -> pb.Booking:
    """Book as Ann."""
    return (await system.newest.stub.CreateBooking(request, metadata=system.user())).booking


@pytest.mark.parametrize(("segments", "passengers"), [(1, 1), (1, 9), (3, 4), (12, 1), (12, 9)])
async def test_journeys(flights: System, segments: int, passengers: int) -> None:
    """A party of up to nine on up to twelve flights is one hold, one sale and one price."""
    instance = await flights.start()
    journey = JOURNEY[:segments]
    request = await flights.request(passengers, flights=journey)

    booking = await create(flights, request)

    assert booking.status == pb.BOOKING_STATUS_CONFIRMED
    assert [one.flight_id for one in booking.segments] == journey
    assert len(booking.passengers) == passengers
    assert amount(booking.total) == (FARE + TAXES) * segments * passengers
    assert flights.schedule.taken(schedule_pb2.HOLD_STATE_CONFIRMED) == {
        (flight, CABIN_ECONOMY): passengers for flight in journey
    }
    assert flights.schedule.faults.calls == {"HoldSeats": 1, "ConfirmHold": 1}
    await flights.check(instance)


async def test_cancelled_journey(flights: System) -> None:
    """Giving back a long journey gives back every seat of it."""
    instance = await flights.start()
    booking = await create(flights, await flights.request(9, flights=JOURNEY))
    request = pb.CancelBookingRequest(request_id="cancel", booking_id=booking.booking_id)

    await instance.stub.CancelBooking(request, metadata=flights.user())

    await flights.check(instance)
    assert not flights.schedule.taken()


@pytest.mark.parametrize("full", [*OUT, *BACK])
async def test_round_trip_without_seats(flights: System, full: str) -> None:
    """A round trip of which any leg is full is rejected, and no leg keeps a seat."""
    instance = await flights.start()
    flights.schedule.capacity[full, CABIN_ECONOMY] = 1

    booking = await create(flights, await flights.request(2, flights=[*OUT, *BACK]))

    assert booking.rejection.reason == "SEATS_UNAVAILABLE"
    assert [one.flight_id for one in booking.segments] == [*OUT, *BACK]
    assert not flights.schedule.taken()
    await flights.check(instance)


async def test_round_trips_that_share_a_leg(flights: System) -> None:
    """Round trips that meet on one full leg sell exactly its seats, and none of other legs more."""
    instances = [await flights.start(), await flights.start()]
    flights.schedule.capacity["flt_home", CABIN_ECONOMY] = 5
    requests = [await flights.request(2, flights=[*OUT, *BACK]) for _ in range(8)]

    answers = await asyncio.gather(
        *(
            instances[number % 2].stub.CreateBooking(request, metadata=flights.user())
            for number, request in enumerate(requests)
        )
    )

    statuses = [one.booking.status for one in answers]
    assert statuses.count(pb.BOOKING_STATUS_CONFIRMED) == 2
    assert statuses.count(pb.BOOKING_STATUS_REJECTED) == 6
    await flights.check(instances[0])
