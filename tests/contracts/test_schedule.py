import asyncio
from datetime import timedelta

import grpc

from consulmesh.wellknown import duration
from flights.schedule.v1 import schedule_pb2 as pb
from flights.type.v1.cabin_pb2 import CABIN_ECONOMY
from streams.v1.stream_pb2 import PHASE_SNAPSHOT_COMPLETED, PHASE_SNAPSHOT_STARTED, Cursor
from tests.contracts.refusals import refused
from tests.contracts.schedule_parties import ScheduleParty

SEATS = 5


def hold(
    schedule: ScheduleParty, *flights: str, seats: int = 2, epoch: int = 1, booking: str = "bkg_1"
) -> grpc.aio.UnaryUnaryCall[pb.HoldSeatsRequest, pb.HoldSeatsResponse]:
    """Ask for seats on flights."""
    return schedule.stub.HoldSeats(
        pb.HoldSeatsRequest(
            booking_id=booking,
            saga_epoch=epoch,
            segments=[
                pb.SegmentSeats(flight_id=flight, cabin=CABIN_ECONOMY, seats=seats)
                for flight in flights
            ],
            hold_duration=duration(timedelta(minutes=10)),
        )
    )


def confirm(
    schedule: ScheduleParty, epoch: int = 1
) -> grpc.aio.UnaryUnaryCall[pb.ConfirmHoldRequest, pb.ConfirmHoldResponse]:
    """Ask to sell what is held."""
    return schedule.stub.ConfirmHold(pb.ConfirmHoldRequest(booking_id="bkg_1", saga_epoch=epoch))


def release(
    schedule: ScheduleParty, epoch: int = 1
) -> grpc.aio.UnaryUnaryCall[pb.ReleaseHoldRequest, pb.ReleaseHoldResponse]:
    """Ask to give back what is held or sold."""
    return schedule.stub.ReleaseHold(pb.ReleaseHoldRequest(booking_id="bkg_1", saga_epoch=epoch))


async def test_hold(schedule: ScheduleParty) -> None:
    """A hold takes the seats of every segment, for as long as was asked."""
    flights = [await schedule.flight(SEATS), await schedule.flight(SEATS)]

    held = (await hold(schedule, *flights)).hold

    assert held.state == pb.HOLD_STATE_HELD
    assert held.HasField("expire_time")
    assert [await schedule.available(flight) for flight in flights] == [SEATS - 2] * 2


async def test_hold_is_all_or_nothing(schedule: ScheduleParty) -> None:
    """A segment without enough seats leaves those of the others free."""
    flights = [await schedule.flight(SEATS), await schedule.flight(1)]

    reason = await refused(hold(schedule, *flights))

    assert reason == "SEATS_UNAVAILABLE"
    assert [await schedule.available(flight) for flight in flights] == [SEATS, 1]


async def test_hold_again(schedule: ScheduleParty) -> None:
    """A repetition, by a later epoch too, returns the hold that there is."""
    flight = await schedule.flight(SEATS)
    first = (await hold(schedule, flight)).hold

    again = (await hold(schedule, flight)).hold
    later = (await hold(schedule, flight, epoch=2)).hold

    assert again == later == first
    assert await schedule.available(flight) == SEATS - 2


async def test_hold_on_a_cancelled_flight(schedule: ScheduleParty) -> None:
    """A cancelled flight has no seats to hold."""
    flight = await schedule.flight(SEATS)
    await schedule.cancel(flight)

    assert await refused(hold(schedule, flight)) == "FLIGHT_CANCELLED"


async def test_hold_on_a_departed_flight(schedule: ScheduleParty) -> None:
    """Nor has one that has left."""
    flight = await schedule.flight(SEATS)
    await schedule.depart(flight)

    assert await refused(hold(schedule, flight)) == "FLIGHT_DEPARTED"


async def test_hold_on_an_unknown_flight(schedule: ScheduleParty) -> None:
    """Nor one that does not exist."""
    assert await refused(hold(schedule, "flt_unknown")) == "FLIGHT_NOT_FOUND"


async def test_confirm(schedule: ScheduleParty) -> None:
    """A confirmed hold keeps its seats; a repetition, by a later epoch too, changes nothing."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight)

    states = [(await confirm(schedule, epoch)).hold.state for epoch in (1, 1, 2)]

    assert states == [pb.HOLD_STATE_CONFIRMED] * 3
    assert await schedule.available(flight) == SEATS - 2


async def test_hold_after_confirm(schedule: ScheduleParty) -> None:
    """A late repetition of HoldSeats says that the hold is confirmed, and takes no more seats."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight)
    await confirm(schedule)

    state = (await hold(schedule, flight)).hold.state

    assert state == pb.HOLD_STATE_CONFIRMED
    assert await schedule.available(flight) == SEATS - 2


async def test_confirm_again_after_cancellation(schedule: ScheduleParty) -> None:
    """What was sold before its flight was cancelled stays sold: a lost reply is repeated."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight)
    await confirm(schedule)
    await schedule.cancel(flight)

    assert (await confirm(schedule)).hold.state == pb.HOLD_STATE_CONFIRMED


async def test_confirm_of_nothing(schedule: ScheduleParty) -> None:
    """Without a hold there is nothing to confirm."""
    assert await refused(confirm(schedule)) == "HOLD_NOT_FOUND"


async def test_confirm_on_a_cancelled_flight(schedule: ScheduleParty) -> None:
    """The pivot is refused for good once a flight is cancelled, and the hold can be given back."""
    flights = [await schedule.flight(SEATS), await schedule.flight(SEATS)]
    await hold(schedule, *flights)
    await schedule.cancel(flights[1])

    reasons = [await refused(confirm(schedule)) for _ in range(2)]
    await release(schedule)

    assert reasons == ["FLIGHT_CANCELLED"] * 2
    assert await schedule.available(flights[0]) == SEATS


async def test_expired(schedule: ScheduleParty) -> None:
    """A hold that has run out gives its seats back once, and can be neither confirmed nor held."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight)
    await schedule.expire("bkg_1")

    reasons = [await refused(confirm(schedule)), await refused(hold(schedule, flight))]
    await release(schedule)

    assert reasons == ["HOLD_EXPIRED", "HOLD_RELEASED"]
    assert await schedule.available(flight) == SEATS


async def test_release(schedule: ScheduleParty) -> None:
    """Held seats are given back, once, and for good."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight)

    for _ in range(2):
        await release(schedule)
    reasons = [await refused(hold(schedule, flight)), await refused(confirm(schedule))]

    assert reasons == ["HOLD_RELEASED"] * 2
    assert await schedule.available(flight) == SEATS


async def test_release_after_confirm(schedule: ScheduleParty) -> None:
    """So are sold ones, also on a flight that was cancelled meanwhile."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight)
    await confirm(schedule)
    await schedule.cancel(flight)

    for _ in range(2):
        await release(schedule)

    assert await schedule.available(flight) == SEATS


async def test_release_before_hold(schedule: ScheduleParty) -> None:
    """A release leaves a tombstone where nothing was held: a hold that comes late is refused."""
    flight = await schedule.flight(SEATS)
    await release(schedule)

    reasons = [await refused(hold(schedule, flight)), await refused(confirm(schedule))]

    assert reasons == ["HOLD_RELEASED"] * 2
    assert await schedule.available(flight) == SEATS


async def test_stale_epoch(schedule: ScheduleParty) -> None:
    """Once an epoch has spoken for a booking, every step of an older one is refused."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight, epoch=2)

    reasons = [
        await refused(hold(schedule, flight, epoch=1)),
        await refused(confirm(schedule, epoch=1)),
        await refused(release(schedule, epoch=1)),
    ]

    assert reasons == ["STALE_EPOCH"] * 3
    assert await schedule.available(flight) == SEATS - 2


async def test_stale_epoch_of_a_tombstone(schedule: ScheduleParty) -> None:
    """A tombstone remembers its epoch too."""
    await release(schedule, epoch=3)

    assert await refused(release(schedule, epoch=2)) == "STALE_EPOCH"


async def test_holds_of_others(schedule: ScheduleParty) -> None:
    """Bookings do not see each other's holds, only the seats that are left."""
    flight = await schedule.flight(SEATS)
    await hold(schedule, flight, seats=3)

    reason = await refused(hold(schedule, flight, seats=3, booking="bkg_2"))
    held = (await hold(schedule, flight, seats=2, booking="bkg_3")).hold

    assert reason == "SEATS_UNAVAILABLE"
    assert held.state == pb.HOLD_STATE_HELD
    assert await schedule.available(flight) == 0


async def watched(schedule: ScheduleParty, flight_id: str, cursor: Cursor | None) -> pb.Flight:
    """Read the stream until it tells of a flight."""
    call = schedule.stub.WatchFlights(pb.WatchFlightsRequest(cursor=cursor))
    try:
        async with asyncio.timeout(30):
            async for response in call:
                for event in response.events:
                    if event.flight_changed.flight_id == flight_id:
                        return event.flight_changed
    finally:
        call.cancel()
    raise AssertionError("the stream has ended")


async def position(schedule: ScheduleParty) -> Cursor:
    """Read the stream until its snapshot is complete."""
    call = schedule.stub.WatchFlights(pb.WatchFlightsRequest())
    try:
        async with asyncio.timeout(30):
            async for response in call:
                if response.phase == PHASE_SNAPSHOT_COMPLETED:
                    return response.cursor
    finally:
        call.cancel()
    raise AssertionError("the stream has ended")


async def test_cancellation_is_told(schedule: ScheduleParty) -> None:
    """A cancelled flight is so in the stream, in a later snapshot too, and has a departure."""
    flight_id = await schedule.flight(SEATS)
    before = await position(schedule)
    await schedule.cancel(flight_id)

    told = await watched(schedule, flight_id, before)
    found = await watched(schedule, flight_id, None)

    assert {one.status for one in (told, found)} == {pb.FLIGHT_STATUS_CANCELLED}
    assert all(one.HasField("departure_time") for one in (told, found))


async def test_changes_only(schedule: ScheduleParty) -> None:
    """A reader that wants no rows is told where the history ends, and then of changes."""
    flight_id = await schedule.flight(SEATS)
    call = schedule.stub.WatchFlights(pb.WatchFlightsRequest(changes_only=True))
    try:
        async with asyncio.timeout(30):
            responses = aiter(call)
            first = [(await anext(responses)).phase for _ in range(2)]
            await schedule.cancel(flight_id)
            while not (events := (await anext(responses)).events):
                pass
    finally:
        call.cancel()

    assert first == [PHASE_SNAPSHOT_STARTED, PHASE_SNAPSHOT_COMPLETED]
    assert [event.flight_changed.flight_id for event in events] == [flight_id]


async def test_release_of_a_cancelled_flight(schedule: ScheduleParty) -> None:
    """Seats that were sold of a flight that was cancelled then can be given back."""
    flight_id = await schedule.flight(SEATS)
    await hold(schedule, flight_id)
    await confirm(schedule)
    await schedule.cancel(flight_id)

    released = (await release(schedule)).hold

    assert released.state == pb.HOLD_STATE_RELEASED
