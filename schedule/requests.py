"""Reads requests of flights.schedule.v1: every field is looked at, every fault is named at once."""

import re
from datetime import timedelta

from consulmesh.validation import (
    FaultError,
    Faults,
    at_least,
    between,
    faults,
    identifier,
    matching,
    request_id,
)
from consulmesh.wellknown import calendar_date, instant, span
from flights.schedule.v1 import schedule_pb2
from schedule.domain import DEFAULT_DURATION, LONGEST_DELAY, LONGEST_DURATION, Cabin, Segment
from schedule.service import CancelFlight, DelayFlight, HoldSeats, RouteDay

airport = matching(re.compile(r"[A-Z]{3}"), 3, "capital letters")
"""An IATA airport code."""
LONGEST_REASON = 500
MOST_FLIGHTS = 100
MOST_SEGMENTS = 12
MOST_SEATS = 9
DEFAULT_PAGE = 50
LARGEST_PAGE = 500


def flight_ids(request: schedule_pb2.BatchGetFlightsRequest) -> list[str]:
    """The ids of 1 to 100 flights."""
    with faults() as noted:
        noted.read("flight_ids", between(1, MOST_FLIGHTS, "flights"), len(request.flight_ids))
        if len(request.flight_ids) > MOST_FLIGHTS:
            noted.found()
        return [
            noted.read(f"flight_ids[{n}]", identifier, i) for n, i in enumerate(request.flight_ids)
        ]


def flight_id(request: schedule_pb2.GetFlightRequest) -> str:
    """The id of one flight."""
    with faults() as noted:
        return noted.read("flight_id", identifier, request.flight_id)


def route_day(request: schedule_pb2.ListFlightsRequest) -> tuple[RouteDay, int]:
    """What to list, and how much of it at a time."""
    with faults() as noted:
        of = RouteDay(
            origin=noted.read("origin", airport, request.origin),
            destination=noted.read("destination", airport, request.destination),
            departure_date=noted.read("departure_date", calendar_date, request.departure_date),
        )
        limit = noted.read(
            "page_size", between(1, LARGEST_PAGE, "flights"), request.page_size or DEFAULT_PAGE
        )
    return of, limit


def delay_flight(request: schedule_pb2.UpdateFlightRequest) -> DelayFlight:
    """The command of UpdateFlight."""
    with faults() as noted:
        return DelayFlight(
            request_id=noted.read("request_id", request_id, request.request_id),
            flight_id=noted.read("flight_id", identifier, request.flight_id),
            to=(
                noted.read("departure_time", instant, request.departure_time)
                if request.HasField("departure_time")
                else noted.read("delay", delay, request)
            ),
            reason=noted.read("reason", reason, request.reason),
            etag=noted.read("etag", etag, request.etag),
        )


def cancel_flight(request: schedule_pb2.CancelFlightRequest) -> CancelFlight:
    """The command of CancelFlight."""
    with faults() as noted:
        return CancelFlight(
            request_id=noted.read("request_id", request_id, request.request_id),
            flight_id=noted.read("flight_id", identifier, request.flight_id),
            reason=noted.read("reason", reason, request.reason),
            etag=noted.read("etag", etag, request.etag),
        )


def hold_seats(request: schedule_pb2.HoldSeatsRequest) -> HoldSeats:
    """The command of HoldSeats."""
    with faults() as noted:
        return HoldSeats(
            booking_id=noted.read("booking_id", identifier, request.booking_id),
            saga_epoch=noted.read("saga_epoch", at_least(1), request.saga_epoch),
            segments=noted.read("segments", lambda r: _segments(noted, r), request),
            duration=noted.read("hold_duration", hold_duration, request),
        )


def saga(
    request: schedule_pb2.ConfirmHoldRequest | schedule_pb2.ReleaseHoldRequest,
) -> tuple[str, int]:
    """Booking and saga epoch."""
    with faults() as noted:
        booking_id = noted.read("booking_id", identifier, request.booking_id)
        saga_epoch = noted.read("saga_epoch", at_least(1), request.saga_epoch)
    return booking_id, saga_epoch


def _segments(noted: Faults, request: schedule_pb2.HoldSeatsRequest) -> tuple[Segment, ...]:
    between(1, MOST_SEGMENTS, "segments")(len(request.segments))
    segments = tuple(
        Segment(
            flight_id=noted.read(f"segments[{n}].flight_id", identifier, segment.flight_id),
            cabin=noted.read(f"segments[{n}].cabin", cabin, segment.cabin),
            seats=noted.read(
                f"segments[{n}].seats", between(1, MOST_SEATS, "seats"), segment.seats
            ),
        )
        for n, segment in enumerate(request.segments)
    )
    if len({segment.flight_id for segment in request.segments}) < len(segments):
        raise FaultError("DUPLICATE", "a flight is there twice")
    return segments


def etag(text: str) -> str:
    """An etag, or nothing."""
    return identifier(text) if text else text


def reason(text: str) -> str:
    """What travellers are told: a line of text, or nothing."""
    if len(text) > LONGEST_REASON:
        raise FaultError("TOO_LONG", f"has more than {LONGEST_REASON} characters")
    if text and not text.isprintable():
        raise FaultError("INVALID_FORMAT", "has characters that can't be printed")
    return text


def delay(request: schedule_pb2.UpdateFlightRequest) -> timedelta:
    """A delay of 0 to 48 h."""
    if not request.HasField("delay"):
        raise FaultError("REQUIRED", "neither a delay nor a departure_time is given")
    found = span(request.delay)
    if not timedelta() <= found <= LONGEST_DELAY:
        raise FaultError("OUT_OF_RANGE", "is not 0 to 48 hours")
    return found


def hold_duration(request: schedule_pb2.HoldSeatsRequest) -> timedelta:
    """How long to hold: more than nothing, at most 30 minutes."""
    found = span(request.hold_duration) or DEFAULT_DURATION
    if not timedelta() < found <= LONGEST_DURATION:
        raise FaultError("OUT_OF_RANGE", "is not 0 to 30 minutes")
    return found


def cabin(number: int) -> Cabin:
    """A cabin that is one."""
    if number == 0:
        raise FaultError("REQUIRED", "is missing")
    try:
        return Cabin(number)
    except ValueError:
        raise FaultError("UNKNOWN", f"there is no cabin {number}") from None
