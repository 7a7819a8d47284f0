from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from consulmesh.errors import Status
from consulmesh.wellknown import date_message, duration, timestamp
from flights.schedule.v1 import schedule_pb2 as pb
from flights.type.v1 import cabin_pb2
from schedule import messages
from tests.schedule.conftest import System
from tests.schedule.samples import NOW, sample

HOUR = timedelta(hours=1)
UNKNOWN = "flt_aaaaaaaaaaaaaaaa"
FLIGHT = sample()
DAY = date_message(FLIGHT.departure_date)


async def refusal(call: Awaitable[Any]) -> Status:
    """How a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return Status.of(raised.value)


async def update(system: System, request_id: str, **changes: Any) -> pb.Flight:
    """The sample flight after an UpdateFlight."""
    request = pb.UpdateFlightRequest(request_id=request_id, flight_id=FLIGHT.flight_id, **changes)
    return (await system.stub.UpdateFlight(request, timeout=30)).flight


async def test_a_flight_is_found_as_it_was_put_in(system: System) -> None:
    """GetFlight answers every field of the flight."""
    await system.add(FLIGHT)
    response = await system.stub.GetFlight(pb.GetFlightRequest(flight_id=FLIGHT.flight_id))

    assert response.flight == messages.flight(FLIGHT)
    assert response.flight.departure_time == timestamp(FLIGHT.departure_time)
    assert [c.available for c in response.flight.cabins] == [10]


async def test_a_batch_keeps_the_order_that_was_asked(system: System) -> None:
    """BatchGetFlights answers in the order of the ids, also when one is there twice."""
    flights = [sample(n) for n in (1, 2, 3)]
    await system.add(*flights)
    asked = [flights[n].flight_id for n in (2, 0, 1, 0)]
    response = await system.stub.BatchGetFlights(pb.BatchGetFlightsRequest(flight_ids=asked))

    assert [flight.flight_id for flight in response.flights] == asked


async def test_an_unknown_flight_is_not_found(system: System) -> None:
    """Every RPC that names a flight that is not there answers NOT_FOUND, FLIGHT_NOT_FOUND."""
    await system.add(FLIGHT)
    segment = pb.SegmentSeats(flight_id=UNKNOWN, cabin=cabin_pb2.CABIN_ECONOMY, seats=1)
    calls: list[Awaitable[Any]] = [
        system.stub.GetFlight(pb.GetFlightRequest(flight_id=UNKNOWN)),
        system.stub.BatchGetFlights(
            pb.BatchGetFlightsRequest(flight_ids=[FLIGHT.flight_id, UNKNOWN])
        ),
        system.stub.UpdateFlight(
            pb.UpdateFlightRequest(request_id="r", flight_id=UNKNOWN, delay=duration(HOUR))
        ),
        system.stub.CancelFlight(pb.CancelFlightRequest(request_id="r", flight_id=UNKNOWN)),
        system.stub.HoldSeats(
            pb.HoldSeatsRequest(booking_id="bkg_1", saga_epoch=1, segments=[segment])
        ),
    ]
    refused = [await refusal(call) for call in calls]

    assert {status.code for status in refused} == {grpc.StatusCode.NOT_FOUND}
    assert {status.reason for status in refused} == {"FLIGHT_NOT_FOUND"}
    assert {status.metadata["flight_id"] for status in refused} == {UNKNOWN}


async def test_pages_have_every_flight_once(system: System) -> None:
    """Pages follow each other by published departure, and the last one says that it is."""
    flights = [sample(n, in_hours=48 + n % 3) for n in range(1, 8)]
    await system.add(*flights, sample(9, in_hours=96))
    request = pb.ListFlightsRequest(
        origin="JFK", destination="LAX", departure_date=DAY, page_size=3
    )
    pages: list[pb.ListFlightsResponse] = []
    while not pages or pages[-1].next_page_token:
        if pages:
            request.page_token = pages[-1].next_page_token
        pages.append(await system.stub.ListFlights(request))
    found = [flight.flight_id for page in pages for flight in page.flights]

    assert [len(page.flights) for page in pages] == [3, 3, 1]
    assert found == [
        f.flight_id for f in sorted(flights, key=lambda f: (f.departure_time, f.flight_id))
    ]


async def test_a_page_token_is_for_the_same_list(system: System) -> None:
    """A token of another route, or one that is none, is INVALID_PAGE_TOKEN."""
    await system.add(*[sample(n) for n in (1, 2)])
    request = pb.ListFlightsRequest(
        origin="JFK", destination="LAX", departure_date=DAY, page_size=1
    )
    token = (await system.stub.ListFlights(request)).next_page_token
    other = pb.ListFlightsRequest(
        origin="LAX", destination="JFK", departure_date=DAY, page_token=token
    )
    refused = [await refusal(system.stub.ListFlights(other))]
    for nonsense in ("x", "AAAA", token[:-4], "é", token + "AAAA"):
        request.page_token = nonsense
        refused.append(await refusal(system.stub.ListFlights(request)))

    assert {status.code for status in refused} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert {status.reason for status in refused} == {"INVALID_PAGE_TOKEN"}


async def test_a_flight_is_delayed(system: System) -> None:
    """UpdateFlight by a delay moves both ends and says why."""
    await system.add(FLIGHT)
    flight = await update(system, "r1", delay=duration(HOUR), reason="weather")

    assert flight.departure_time == timestamp(FLIGHT.departure_time + HOUR)
    assert flight.arrival_time == timestamp(FLIGHT.arrival_time + HOUR)
    assert flight.scheduled_departure_time == timestamp(FLIGHT.departure_time)
    assert (flight.status, flight.status_reason) == (pb.FLIGHT_STATUS_DELAYED, "weather")
    assert flight.version == 2
    assert (await system.flights())[FLIGHT.flight_id].etag == flight.etag


async def test_a_delay_over_a_clock_change_moves_the_offset(system: System) -> None:
    """The offsets from UTC are those of the new times."""
    march = sample(in_hours=(109 * 24))  # Saturday 2027-03-13, 07:00 in New York
    await system.add(march)
    request = pb.UpdateFlightRequest(
        request_id="r", flight_id=march.flight_id, delay=duration(24 * HOUR)
    )
    flight = (await system.stub.UpdateFlight(request)).flight

    assert march.departure_utc_offset_minutes == -300
    assert flight.departure_utc_offset_minutes == -240
    assert flight.arrival_utc_offset_minutes == -420


async def test_a_new_departure_time_is_a_delay(system: System) -> None:
    """UpdateFlight to an instant is as late as that instant; an earlier one is refused."""
    await system.add(FLIGHT)
    later = timestamp(FLIGHT.departure_time + HOUR)
    flight = await update(system, "r1", departure_time=later)
    earlier = timestamp(FLIGHT.departure_time - HOUR)
    refused = await refusal(update(system, "r2", departure_time=earlier))

    assert flight.departure_time == later
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "VALIDATION_FAILED",
    )
    assert [v.field for v in refused.violations] == ["departure"]


async def test_a_repeated_request_changes_nothing_further(system: System) -> None:
    """The same request again, even with an etag that is old by now, leaves the flight as it is."""
    await system.add(FLIGHT)
    first = await update(system, "r1", delay=duration(HOUR), etag=FLIGHT.etag)
    await update(system, "r2", delay=duration(2 * HOUR))
    again = await update(system, "r1", delay=duration(HOUR), etag=FLIGHT.etag)

    assert first.version == 2
    assert again.version == 3
    assert again.departure_time == timestamp(FLIGHT.departure_time + 2 * HOUR)


async def test_a_request_id_is_for_one_request(system: System) -> None:
    """Another change under a used request id is refused, and a refused one leaves no trace."""
    await system.add(FLIGHT)
    await update(system, "r1", delay=duration(HOUR))
    reused = await refusal(update(system, "r1", delay=duration(2 * HOUR)))
    await refusal(update(system, "r2", delay=duration(HOUR), etag="other"))
    after = await update(system, "r2", delay=duration(3 * HOUR))

    assert (reused.code, reused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_ID_REUSED",
    )
    assert after.version == 3


async def test_an_old_etag_aborts(system: System) -> None:
    """A change that was made up from an old state is ABORTED with ETAG_MISMATCH."""
    await system.add(FLIGHT)
    await update(system, "r1", delay=duration(HOUR))
    calls: list[Awaitable[Any]] = [
        update(system, "r2", delay=duration(2 * HOUR), etag=FLIGHT.etag),
        system.stub.CancelFlight(
            pb.CancelFlightRequest(request_id="r3", flight_id=FLIGHT.flight_id, etag=FLIGHT.etag)
        ),
    ]
    refused = [await refusal(call) for call in calls]

    assert {status.code for status in refused} == {grpc.StatusCode.ABORTED}
    assert {status.reason for status in refused} == {"ETAG_MISMATCH"}


async def test_a_flight_is_cancelled_once(system: System) -> None:
    """CancelFlight ends the flight; again it changes nothing; moving it is refused."""
    await system.add(FLIGHT)
    responses = [
        await system.stub.CancelFlight(
            pb.CancelFlightRequest(request_id=r, flight_id=FLIGHT.flight_id, reason="crew")
        )
        for r in ("r1", "r2")
    ]
    refused = await refusal(update(system, "r3", delay=duration(HOUR)))

    assert [response.flight.version for response in responses] == [2, 2]
    assert responses[0].flight.status == pb.FLIGHT_STATUS_CANCELLED
    assert responses[0].flight.status_reason == "crew"
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "FLIGHT_CANCELLED",
    )


async def test_a_departed_flight_is_not_changed(system: System) -> None:
    """Once the clock has passed the departure, changes are FLIGHT_DEPARTED."""
    await system.add(FLIGHT)
    system.clock.advance(48 * HOUR)
    refused = await refusal(update(system, "r1", delay=duration(HOUR)))

    assert refused.reason == "FLIGHT_DEPARTED"


Fields = list[tuple[str, str]]


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("GetFlight", pb.GetFlightRequest(), [("flight_id", "REQUIRED")]),
        ("GetFlight", pb.GetFlightRequest(flight_id="a\x00b"), [("flight_id", "INVALID_FORMAT")]),
        ("GetFlight", pb.GetFlightRequest(flight_id="a" * 65), [("flight_id", "TOO_LONG")]),
        ("BatchGetFlights", pb.BatchGetFlightsRequest(), [("flight_ids", "OUT_OF_RANGE")]),
        (
            "BatchGetFlights",
            pb.BatchGetFlightsRequest(flight_ids=["a"] * 101),
            [("flight_ids", "OUT_OF_RANGE")],
        ),
        (
            "BatchGetFlights",
            pb.BatchGetFlightsRequest(flight_ids=["a", ""]),
            [("flight_ids[1]", "REQUIRED")],
        ),
        (
            "ListFlights",
            pb.ListFlightsRequest(origin="jfk", page_size=501),
            [
                ("origin", "INVALID_FORMAT"),
                ("destination", "REQUIRED"),
                ("departure_date", "INVALID_FORMAT"),
                ("page_size", "OUT_OF_RANGE"),
            ],
        ),
        (
            "UpdateFlight",
            pb.UpdateFlightRequest(request_id="é", reason="a\nb"),
            [
                ("request_id", "INVALID_FORMAT"),
                ("flight_id", "REQUIRED"),
                ("delay", "REQUIRED"),
                ("reason", "INVALID_FORMAT"),
            ],
        ),
        (
            "UpdateFlight",
            pb.UpdateFlightRequest(
                request_id="r", flight_id="f", departure_time=Timestamp(seconds=1 << 62)
            ),
            [("departure_time", "INVALID_FORMAT")],
        ),
        (
            "UpdateFlight",
            pb.UpdateFlightRequest(request_id="r", flight_id="f", delay=Duration(seconds=-1)),
            [("delay", "OUT_OF_RANGE")],
        ),
        (
            "CancelFlight",
            pb.CancelFlightRequest(request_id="r" * 256, flight_id="f", reason="x" * 501),
            [("request_id", "TOO_LONG"), ("reason", "TOO_LONG")],
        ),
        (
            "HoldSeats",
            pb.HoldSeatsRequest(saga_epoch=-1, hold_duration=Duration(seconds=1801)),
            [
                ("booking_id", "REQUIRED"),
                ("saga_epoch", "OUT_OF_RANGE"),
                ("segments", "OUT_OF_RANGE"),
                ("hold_duration", "OUT_OF_RANGE"),
            ],
        ),
        (
            "HoldSeats",
            pb.HoldSeatsRequest(
                booking_id="b",
                saga_epoch=1,
                segments=[
                    pb.SegmentSeats(flight_id="f", seats=10),
                    pb.SegmentSeats(cabin=cast("Any", 99), seats=1),
                ],
            ),
            [
                ("segments[0].cabin", "REQUIRED"),
                ("segments[0].seats", "OUT_OF_RANGE"),
                ("segments[1].flight_id", "REQUIRED"),
                ("segments[1].cabin", "UNKNOWN"),
            ],
        ),
        (
            "HoldSeats",
            pb.HoldSeatsRequest(
                booking_id="b",
                saga_epoch=1,
                segments=[pb.SegmentSeats(flight_id="f", cabin=cabin_pb2.CABIN_FIRST, seats=1)] * 2,
            ),
            [("segments", "DUPLICATE")],
        ),
        ("ConfirmHold", pb.ConfirmHoldRequest(saga_epoch=1), [("booking_id", "REQUIRED")]),
        ("ReleaseHold", pb.ReleaseHoldRequest(booking_id="b"), [("saga_epoch", "OUT_OF_RANGE")]),
    ],
)
async def test_every_fault_of_a_request_is_named(
    system: System, method: str, request_: Any, fields: Fields
) -> None:
    """A request that can't be right is INVALID_ARGUMENT with each field that is wrong."""
    call: Callable[[Any], Awaitable[Any]] = getattr(system.stub, method)
    refused = await refusal(call(request_))

    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "VALIDATION_FAILED",
    )
    assert [(v.field, v.reason) for v in refused.violations] == fields


async def test_a_list_of_nothing(system: System) -> None:
    """A route without flights is an empty list, and NOW is not looked at."""
    request = pb.ListFlightsRequest(
        origin="XXX", destination="YYY", departure_date=date_message(NOW.date())
    )
    response = await system.stub.ListFlights(request)

    assert response == pb.ListFlightsResponse()
