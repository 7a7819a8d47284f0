import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from consulmesh.wellknown import duration, timestamp
from flights.schedule.v1 import schedule_pb2 as pb
from flights.type.v1 import cabin_pb2
from schedule.domain import Flight
from schedule.tables import flight_cabin, outbox
from tests.schedule.conftest import System
from tests.schedule.samples import NOW, sample
from tests.schedule.test_servicer import refusal


async def hold(
    system: System, booking: str, *flights: Flight, seats: int = 1, **request: Any
) -> pb.Hold:
    """Hold so many seats in economy of each flight."""
    segments = [
        pb.SegmentSeats(flight_id=f.flight_id, cabin=cabin_pb2.CABIN_ECONOMY, seats=seats)
        for f in flights
    ]
    asked = pb.HoldSeatsRequest(
        booking_id=booking, segments=segments, **{"saga_epoch": 1, **request}
    )
    return (await system.stub.HoldSeats(asked, timeout=30)).hold


async def confirm(system: System, booking: str, epoch: int = 1) -> pb.Hold:
    """Confirm a booking's hold."""
    request = pb.ConfirmHoldRequest(booking_id=booking, saga_epoch=epoch)
    return (await system.stub.ConfirmHold(request, timeout=30)).hold


async def release(system: System, booking: str, epoch: int = 1) -> pb.Hold:
    """Release a booking's hold."""
    request = pb.ReleaseHoldRequest(booking_id=booking, saga_epoch=epoch)
    return (await system.stub.ReleaseHold(request, timeout=30)).hold


async def taken(system: System, flight: Flight) -> tuple[int, int]:
    """Seats held and sold in the flight's first cabin."""
    seats = (await system.flights())[flight.flight_id].cabins[0]
    return seats.held, seats.sold


async def test_seats_are_held_confirmed_and_given_back(system: System) -> None:
    """A hold takes seats, its confirmation sells them, its release returns them."""
    flight = sample()
    await system.add(flight)
    seen = []
    held = await hold(system, "bkg_1", flight, seats=3)
    seen.append(await taken(system, flight))
    confirmed = await confirm(system, "bkg_1")
    seen.append(await taken(system, flight))
    released = await release(system, "bkg_1")
    seen.append(await taken(system, flight))

    assert seen == [(3, 0), (0, 3), (0, 0)]
    assert held.state == pb.HOLD_STATE_HELD
    assert held.expire_time == timestamp(NOW + timedelta(minutes=10))
    assert confirmed.state == pb.HOLD_STATE_CONFIRMED
    assert released.state == pb.HOLD_STATE_RELEASED
    assert (await system.flights())[flight.flight_id].version == 4


async def test_all_segments_are_held_or_none(system: System) -> None:
    """When one flight has too few seats, nothing is held on the others."""
    full, free = sample(1, economy=1), sample(2)
    await system.add(full, free)
    refused = await refusal(hold(system, "bkg_1", free, full, seats=2))

    assert (refused.code, refused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "SEATS_UNAVAILABLE",
    )
    assert refused.metadata == {
        "flight_id": full.flight_id,
        "cabin": "ECONOMY",
        "available": "1",
    }
    assert await taken(system, free) == (0, 0)


async def test_repetitions_take_nothing_more(system: System) -> None:
    """Each step repeated returns the first answer and moves no seat."""
    flight = sample()
    await system.add(flight)
    steps = [
        [
            await hold(system, "bkg_1", flight, hold_duration=duration(timedelta(minutes=n)))
            for n in (5, 6)
        ],
        [await confirm(system, "bkg_1") for _ in range(2)],
    ]
    sold = await taken(system, flight)
    steps.append([await release(system, "bkg_1") for _ in range(2)])

    assert all(first == again for first, again in steps)
    assert sold == (0, 1)
    assert await taken(system, flight) == (0, 0)


async def test_a_release_before_the_hold_wins(system: System) -> None:
    """A release where nothing was held leaves a tombstone that refuses a late hold."""
    flight = sample()
    await system.add(flight)
    tombstone = await release(system, "bkg_1")
    held = await refusal(hold(system, "bkg_1", flight))
    confirmed = await refusal(confirm(system, "bkg_1"))

    assert tombstone.state == pb.HOLD_STATE_RELEASED
    assert {held.reason, confirmed.reason} == {"HOLD_RELEASED"}
    assert await taken(system, flight) == (0, 0)


async def test_an_older_saga_is_refused(system: System) -> None:
    """Once a newer epoch has spoken, an older one is STALE_EPOCH everywhere."""
    flight = sample()
    await system.add(flight)
    await hold(system, "bkg_1", flight, saga_epoch=2)
    refused = [
        await refusal(hold(system, "bkg_1", flight)),
        await refusal(confirm(system, "bkg_1")),
        await refusal(release(system, "bkg_1")),
    ]

    assert {status.reason for status in refused} == {"STALE_EPOCH"}
    assert await taken(system, flight) == (1, 0)


async def test_nothing_to_confirm(system: System) -> None:
    """A booking that never held anything is HOLD_NOT_FOUND."""
    refused = await refusal(confirm(system, "bkg_1"))

    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "HOLD_NOT_FOUND")


async def test_a_cancelled_flight_is_not_sold(system: System) -> None:
    """A hold on a flight that was cancelled meanwhile is not confirmed, but can be released."""
    flight = sample()
    await system.add(flight)
    await hold(system, "bkg_1", flight)
    await system.stub.CancelFlight(
        pb.CancelFlightRequest(request_id="r", flight_id=flight.flight_id)
    )
    refused = [
        await refusal(confirm(system, "bkg_1")),
        await refusal(hold(system, "bkg_2", flight)),
    ]
    await release(system, "bkg_1")

    assert {status.reason for status in refused} == {"FLIGHT_CANCELLED"}
    assert await taken(system, flight) == (0, 0)


async def test_a_departed_flight_is_not_held(system: System) -> None:
    """Seats of a flight that has left are FLIGHT_DEPARTED."""
    flight = sample()
    await system.add(flight)
    system.clock.advance(timedelta(hours=48))

    assert (await refusal(hold(system, "bkg_1", flight))).reason == "FLIGHT_DEPARTED"


async def test_a_hold_that_is_due_can_be_confirmed_until_it_is_swept(system: System) -> None:
    """ConfirmHold looks at the state and not at the clock."""
    flight = sample()
    await system.add(flight)
    await hold(system, "bkg_1", flight)
    await hold(system, "bkg_2", flight)
    system.clock.advance(timedelta(minutes=11))
    confirmed = await confirm(system, "bkg_1")
    await system.seats.expire("bkg_2")

    assert confirmed.state == pb.HOLD_STATE_CONFIRMED
    assert (await refusal(confirm(system, "bkg_2"))).reason == "HOLD_EXPIRED"
    assert await taken(system, flight) == (0, 1)


async def test_one_seat_and_200_clients(system: System) -> None:
    """Of 200 clients that want the last seat at once, exactly one gets it."""
    flight = sample(economy=1)
    await system.add(flight)
    results = await asyncio.gather(
        *(hold(system, f"bkg_{n}", flight) for n in range(200)), return_exceptions=True
    )
    won = [r for r in results if isinstance(r, pb.Hold)]
    lost = Counter(r.code() for r in results if isinstance(r, grpc.aio.AioRpcError))

    assert len(won) == 1
    assert lost == {grpc.StatusCode.FAILED_PRECONDITION: 199}
    assert await taken(system, flight) == (1, 0)


async def test_parties_never_oversell(system: System) -> None:
    """Parties of one to four on two flights at once fill no flight beyond its seats."""
    flights = [sample(1, economy=7), sample(2, economy=5)]
    await system.add(*flights)
    orders = [flights, flights[::-1]]  # rows are taken in one order whatever the request's is
    results = await asyncio.gather(
        *(hold(system, f"bkg_{n}", *orders[n % 2], seats=1 + n % 4) for n in range(60)),
        return_exceptions=True,
    )
    held = sum(r.segments[0].seats for r in results if isinstance(r, pb.Hold))

    assert [await taken(system, flight) for flight in flights] == [(held, 0)] * 2
    assert held <= 5


@pytest.mark.parametrize("change", [{"held": 11}, {"held": -1}, {"sold": -1}, {"sold": 11}])
async def test_the_database_refuses_to_oversell(system: System, change: dict[str, int]) -> None:
    """Even a defect can't write more seats than there are, or fewer than none."""
    await system.add(sample())
    with pytest.raises(IntegrityError):
        await system.db.write(lambda c: c.execute(update(flight_cabin).values(change)))


async def test_a_refused_hold_publishes_nothing(system: System) -> None:
    """What changes nothing makes no event."""
    flight = sample(economy=1)
    await system.add(flight)
    before = await system.db.read(outbox.head)
    await refusal(hold(system, "bkg_1", flight, seats=2))

    assert await system.db.read(outbox.head) == before
