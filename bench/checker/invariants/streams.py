"""I7, first half: outboxes say everything, once, in order."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from bench.checker.case import Case
from bench.checker.facts import Booking, Flight, PricedFlight
from bench.checker.messages import Change, amount, cabin_name, is_end, priced, status_name
from bench.checker.streams import Stream
from bench.checker.violation import Violation
from flights.booking.v1.booking_pb2 import BookingChanged
from flights.pricing.v1.pricing_pb2 import FlightPrices
from flights.schedule.v1.schedule_pb2 import FLIGHT_STATUS_CANCELLED
from flights.schedule.v1.schedule_pb2 import Flight as FlightMessage

_Row = TypeVar("_Row", Booking, Flight, PricedFlight)


def i7_streams_are_gapless(case: Case) -> Iterator[Violation]:
    """Events have every number of their epoch once; the last one of a key is the state of its row.

    Versions of a key grow from event to event. What was trimmed is not missed.
    """
    booking, schedule, pricing = case.facts.booking, case.facts.schedule, case.facts.pricing
    yield from _stream("booking", booking.stream, booking.bookings, _is_booking)
    yield from _stream("flight", schedule.stream, schedule.flights, _is_flight)
    yield from _stream("price", pricing.stream, pricing.flights, _is_priced)
    for flight_id, flight in schedule.flights.items():
        if not _is_flight(schedule.stream.change(flight.event), flight):
            yield Violation("I7", "flight: the event in the row is not its state", (flight_id,))


def _stream(
    name: str, stream: Stream, rows: Mapping[str, _Row], equal: Callable[[Change, _Row], bool]
) -> Iterator[Violation]:
    for what, where in stream.faults:
        yield Violation("I7", f"{name}: {what}", (where,))
    if stream.events == stream.head:  # nothing was trimmed; a first load tells of no row
        for key in rows.keys() - stream.last.keys():
            if rows[key].version > 1:
                yield Violation("I7", f"{name}: no event tells of its changes", (key,))
    for key, last in stream.last.items():
        row, change = rows.get(key), stream.change(last.payload)
        if (row is None) != is_end(change):
            yield Violation("I7", f"{name}: the last event and the row disagree that it is", (key,))
        elif row is not None and not equal(change, row):
            yield Violation("I7", f"{name}: the last event is not the state of the row", (key,))


def _is_booking(change: Change, booking: Booking) -> bool:
    return isinstance(change, BookingChanged) and (
        change.version,
        status_name(change.status),
        priced(change.segments),
        change.passengers,
        change.rejection_reason,
    ) == (
        booking.version,
        booking.status,
        booking.segments,
        len(booking.passengers),
        booking.reason,
    )


def _is_flight(change: Change, flight: Flight) -> bool:
    return isinstance(change, FlightMessage) and (
        change.version,
        change.status == FLIGHT_STATUS_CANCELLED,
        {cabin_name(c.cabin): (c.capacity, c.available) for c in change.cabins},
    ) == (
        flight.version,
        flight.cancelled,
        {name: (cabin.capacity, cabin.available) for name, cabin in flight.cabins.items()},
    )


def _is_priced(change: Change, flight: PricedFlight) -> bool:
    return isinstance(change, FlightPrices) and (
        change.version,
        {cabin_name(p.cabin): (amount(p.fare), amount(p.taxes), p.version) for p in change.prices},
    ) == (
        flight.version,
        {name: (c.fare, c.taxes, c.version) for name, c in flight.cabins.items()},
    )
