"""Protobuf messages to the JSON of the public API.

No pydantic on this path: dictionaries go straight to orjson, and the part that repeats from one
search to the next (a segment in its cabin) is rendered once. That memory is keyed by the bytes of
the message, so nothing has to invalidate it, and equal messages are equal bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Any

import orjson

from flights.booking.v1.booking_pb2 import BookedSegment, Booking
from flights.pricing.v1.pricing_pb2 import Fare, Price, Quote, QuoteLine
from flights.schedule.v1.schedule_pb2 import Flight
from flights.search.v1.search_pb2 import (
    PRICE_BASIS_LIVE,
    Airport,
    Itinerary,
    PriceBasis,
    RoundTrip,
    SearchFareCalendarResponse,
    SearchItinerariesResponse,
    SearchRoundTripsResponse,
    Segment,
)
from flights.type.v1.cabin_pb2 import Cabin
from gateway_bff.ids import itinerary_id
from gateway_bff.values import (
    BOOKING_STATUSES,
    CABIN_NAMES,
    FLIGHT_STATUSES,
    day_text,
    local_time,
    money,
    total,
    utc_time,
)

Json = dict[str, Any]
UNKNOWN = "unknown"  # what a newer upstream may say and this gateway has no word for


def itineraries(response: SearchItinerariesResponse, cabin: Cabin.ValueType) -> bytes:
    """A page of search results."""
    page: Json = {"itineraries": [_itinerary(found, cabin) for found in response.itineraries]}
    if response.next_page_token:
        page["next_page_token"] = response.next_page_token
    return orjson.dumps(page)


def itinerary(found: Itinerary, cabin: Cabin.ValueType) -> bytes:
    """One search result, byte for byte as it stands in a page."""
    return orjson.dumps(_itinerary(found, cabin))


def _itinerary(found: Itinerary, cabin: Cabin.ValueType) -> Json:
    segments = [_segment(s.SerializeToString(), cabin) for s in found.segments]
    return {
        "itinerary_id": found.itinerary_id,
        "stops": len(segments) - 1,
        "duration_minutes": found.duration.seconds // 60,
        "segments": segments,
        "price": {
            "total": money(found.price_total),
            "per_passenger": money(found.price_per_passenger),
            "basis": "live" if found.price_basis == PRICE_BASIS_LIVE else "indicative",
        },
    }


def round_trips(response: SearchRoundTripsResponse, cabin: Cabin.ValueType) -> bytes:
    """A page of ways there and back."""
    page: Json = {"round_trips": [_round_trip(found, cabin) for found in response.round_trips]}
    if response.next_page_token:
        page["next_page_token"] = response.next_page_token
    return orjson.dumps(page)


def _round_trip(found: RoundTrip, cabin: Cabin.ValueType) -> Json:
    bases = {found.outbound.price_basis, found.inbound.price_basis}
    return {
        "outbound": _itinerary(found.outbound, cabin),
        "inbound": _itinerary(found.inbound, cabin),
        "price": {
            "total": money(found.price_total),
            "per_passenger": money(found.price_per_passenger),
            "basis": _basis(bases),
        },
    }


def fare_calendar(month: str, answers: Sequence[SearchFareCalendarResponse]) -> bytes:
    """A month of what the parts of search have said: each of its own days."""
    days = {day_text(fare.date): fare for answer in answers for fare in answer.days}
    shown: Json = {
        "month": month,
        "days": [
            {"date": day, "per_passenger": money(fare.lowest_price)}
            for day, fare in sorted(days.items())
        ],
        "basis": _basis({answer.price_basis for answer in answers}),
    }
    nobodys = set.intersection(*({day_text(d) for d in answer.unreachable} for answer in answers))
    if nobodys:
        shown["unreachable"] = sorted(nobodys)
    return orjson.dumps(shown)


def _basis(bases: AbstractSet[PriceBasis.ValueType]) -> str:
    """Live where all are."""
    return "live" if bases == {PRICE_BASIS_LIVE} else "indicative"


@lru_cache(maxsize=16_384)
def _segment(wire: bytes, cabin: Cabin.ValueType) -> orjson.Fragment:
    """A segment of a search result, from its bytes on the wire."""
    segment = Segment.FromString(wire)
    leaves = local_time(segment.departure_time, segment.departure_utc_offset_minutes)
    arrives = local_time(segment.arrival_time, segment.arrival_utc_offset_minutes)
    shown = {
        "flight_id": segment.flight_id,
        "carrier": segment.carrier,
        "number": segment.number,
        "aircraft": segment.aircraft,
        "departure": {"airport": segment.origin, "time": leaves},
        "arrival": {"airport": segment.destination, "time": arrives},
        "status": "delayed" if segment.delayed else "scheduled",
        "cabin": CABIN_NAMES.get(cabin, UNKNOWN),
        "seats_available": segment.seats_available,
    }
    return orjson.Fragment(orjson.dumps(shown))


def airports(found: Iterable[Airport]) -> bytes:
    """The airports that a query matches."""
    return orjson.dumps({"airports": [_airport(airport) for airport in found]})


def _airport(airport: Airport) -> Json:
    return {
        "code": airport.code,
        "name": airport.name,
        "city": airport.city,
        "country": airport.country,
        "time_zone": airport.time_zone,
        "served": airport.served,
    }


def flight(found: Flight) -> Json:
    """One flight with its cabins."""
    return {
        **_leg(found),
        "distance_km": found.distance_km,
        "inferred": found.inferred,
        "cabins": [
            {
                "cabin": CABIN_NAMES.get(seats.cabin, UNKNOWN),
                "capacity": seats.capacity,
                "seats_available": seats.available,
            }
            for seats in found.cabins
        ],
        "version": found.version,
        "etag": found.etag,
    }


def _leg(found: Flight) -> Json:
    """What travellers need to know of a flight: who, where, when, and whether it flies."""
    leaves, arrives = found.departure_utc_offset_minutes, found.arrival_utc_offset_minutes
    leg = {
        "flight_id": found.flight_id,
        "carrier": found.carrier,
        "number": found.number,
        "aircraft": found.aircraft,
        "departure": {
            "airport": found.origin,
            "time": local_time(found.departure_time, leaves),
            "scheduled_time": local_time(found.scheduled_departure_time, leaves),
        },
        "arrival": {
            "airport": found.destination,
            "time": local_time(found.arrival_time, arrives),
            "scheduled_time": local_time(found.scheduled_arrival_time, arrives),
        },
        "status": FLIGHT_STATUSES.get(found.status, UNKNOWN),
    }
    if found.status_reason:
        leg["status_reason"] = found.status_reason
    return leg


def fare(found: Fare) -> Json:
    """The base fare of a route."""
    return {
        "origin": found.origin,
        "destination": found.destination,
        "base": money(found.base),
        "etag": found.etag,
    }


def prices(flight_id: str, found: Iterable[Price]) -> Json:
    """Prices of one flight by cabin."""
    return {
        "flight_id": flight_id,
        "prices": [
            {
                "cabin": CABIN_NAMES.get(price.cabin, UNKNOWN),
                "fare": money(price.fare),
                "taxes": money(price.taxes),
                "per_passenger": money(total(price.fare, price.taxes)),
            }
            for price in found
        ],
    }


def quote(made: Quote) -> Json:
    """A quote.

    `itinerary_id` names all its flights and can be quoted again. A journey in two cabins has
    none: its lines say which.
    """
    cabins = {line.cabin for line in made.lines}
    shown: Json = {"quote_id": made.quote_id}
    if len(cabins) == 1:
        cabin = cabins.pop()
        shown["itinerary_id"] = itinerary_id([line.flight_id for line in made.lines], cabin)
        shown["cabin"] = CABIN_NAMES.get(cabin, UNKNOWN)
    return shown | {
        "passengers": made.passengers,
        "total": money(made.total),
        "lines": [_line(line) for line in made.lines],
        "expire_time": utc_time(made.expire_time),
    }


def _line(line: QuoteLine | BookedSegment) -> Json:
    """What one passenger pays for one flight."""
    return {
        "flight_id": line.flight_id,
        "cabin": CABIN_NAMES.get(line.cabin, UNKNOWN),
        "fare": money(line.fare),
        "taxes": money(line.taxes),
    }


def booking(made: Booking, flights: Mapping[str, Flight] | None = None) -> Json:
    """A booking.

    With `flights` its segments carry the times as they are now; one that is missing there has
    none, and the answer says `"partial": true`.
    """
    segments = [_booked_segment(segment, flights or {}) for segment in made.segments]
    shown: Json = {
        "booking_id": made.booking_id,
        "status": BOOKING_STATUSES.get(made.status, UNKNOWN),
        "reference": made.reference,
        "quote_id": made.quote_id,
        "segments": segments,
        "passengers": [
            {"given_name": passenger.given_name, "family_name": passenger.family_name}
            for passenger in made.passengers
        ],
        "contact": {"email": made.contact.email},
    }
    if made.HasField("total"):
        shown["total"] = money(made.total)
    if made.HasField("rejection"):
        shown["rejection"] = {"code": made.rejection.reason, "detail": made.rejection.message}
    shown["create_time"] = utc_time(made.create_time)
    shown["update_time"] = utc_time(made.update_time)
    if flights is not None and any(s.flight_id not in flights for s in made.segments):
        shown["partial"] = True
    return shown


def _booked_segment(segment: BookedSegment, flights: Mapping[str, Flight]) -> Json:
    known = flights.get(segment.flight_id)
    return (_leg(known) if known else {}) | _line(segment)
