"""What goes out: the shapes of the public API's answers, for OpenAPI.

Answers are not made of these; `translate` writes them, and tests hold the two together. A member
that may be missing is never null. `examples` are what the document shows: an object is made of its
members' (a member that may be missing is shown where it has one of its own).
"""

import datetime as dt
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from gateway_bff.json_schema import never_null

Cabin = TypeAliasType("Cabin", Literal["economy", "premium_economy", "business", "first"])
FlightStatus = TypeAliasType("FlightStatus", Literal["scheduled", "delayed", "cancelled"])
PriceBasis = TypeAliasType("PriceBasis", Literal["live", "indicative"])
BookingStatus = TypeAliasType(
    "BookingStatus", Literal["pending", "confirmed", "rejected", "cancelled", "affected"]
)


def _shown(*examples: Any) -> Any:
    return Field(examples=list(examples))


def _usd(amount: str) -> Any:
    return _shown({"currency": "USD", "amount": amount})


_LEAVES: Final = {"airport": "JFK", "time": "2026-12-01T06:30:00-05:00"}
_ARRIVES: Final = {"airport": "LAX", "time": "2026-12-01T09:55:00-08:00"}
_BACK: Final = {"airport": "LAX", "time": "2026-12-06T08:00:00-08:00"}
_HOME: Final = {"airport": "JFK", "time": "2026-12-06T16:25:00-05:00"}
_MORE: Final = "eyJvIjoiSkZLIn0"

FlightId = Annotated[str, _shown("flt_abcdefgh23456723")]
ItineraryId = Annotated[str, _shown("itn_ChRmbHRfYWJjZGVmZ2gyMzQ1NjcyMxAB")]
QuoteId = Annotated[str, _shown("quo_abcdefghijklmnopqrstuvwxyz")]
BookingId = Annotated[str, _shown("bkg_abcdefghijklmnopqrstuvwxyz")]
AirportCode = Annotated[str, _shown("JFK")]
CarrierCode = Annotated[str, _shown("B6")]
Number = Annotated[str, _shown("23")]
Aircraft = Annotated[str, _shown("A320")]
Seats = Annotated[int, _shown(112)]
Moment = Annotated[dt.datetime, _shown("2026-11-24T12:01:00Z")]
ETag = Annotated[str, _shown("v3")]


class Answer(BaseModel):
    """Anything that goes out."""

    model_config = ConfigDict(json_schema_extra=never_null)


class Money(Answer):
    """An amount; a decimal string, so that nobody rounds it."""

    currency: Annotated[str, _shown("USD")]
    amount: Annotated[str, _shown("418.20")]


OneFare = Annotated[Money, _usd("180.00")]
OneTax = Annotated[Money, _usd("29.10")]
OnePassenger = Annotated[Money, _usd("209.10")]


class Call(Answer):
    """One end of a flight: where, and when on the clocks there."""

    airport: AirportCode
    time: Annotated[dt.datetime, _shown("2026-12-01T06:30:00-05:00")]
    scheduled_time: dt.datetime | None = None


Departure = Annotated[Call, _shown(_LEAVES)]
Arrival = Annotated[Call, _shown(_ARRIVES)]


class Segment(Answer):
    """A flight of an itinerary."""

    flight_id: FlightId
    carrier: CarrierCode
    number: Number
    aircraft: Aircraft
    departure: Departure
    arrival: Arrival
    status: FlightStatus
    cabin: Cabin
    seats_available: Seats


class Price(Answer):
    """What an itinerary or both of a round trip cost; the price that counts is the quote's."""

    total: Money
    per_passenger: OnePassenger
    basis: PriceBasis


class Itinerary(Answer):
    """A way to travel."""

    itinerary_id: ItineraryId
    stops: Annotated[int, _shown(0)]
    duration_minutes: Annotated[int, _shown(385)]
    segments: list[Segment]
    price: Price


class Done(Answer):
    """The end of a search as a stream, and how many there were: data of `event: done`."""

    count: Annotated[int, _shown(37)]


NextPageToken = Annotated[
    str | None, Field(description="Absent on the last page.", examples=[_MORE])
]


class ItineraryPage(Answer):
    """Itineraries, and how to get more."""

    itineraries: list[Itinerary]
    next_page_token: NextPageToken = None


_WAY_BACK: Final = {
    "itinerary_id": "itn_ChRmbHRfenl4d3Z1dHM3NjU0MzI3NhAB",
    "stops": 0,
    "duration_minutes": 325,
    "segments": [
        {
            "flight_id": "flt_zyxwvuts76543276",
            "carrier": "B6",
            "number": "24",
            "aircraft": "A320",
            "departure": _BACK,
            "arrival": _HOME,
            "status": "scheduled",
            "cabin": "economy",
            "seats_available": 86,
        }
    ],
    "price": {
        "total": {"currency": "USD", "amount": "402.00"},
        "per_passenger": {"currency": "USD", "amount": "201.00"},
        "basis": "live",
    },
}


class RoundTrip(Answer):
    """A way there and a way back; quoted by the ids of both."""

    outbound: Itinerary
    inbound: Annotated[Itinerary, _shown(_WAY_BACK)]
    price: Annotated[
        Price,
        _shown(
            {
                "total": {"currency": "USD", "amount": "820.20"},
                "per_passenger": {"currency": "USD", "amount": "410.10"},
                "basis": "live",
            }
        ),
    ]


class RoundTripPage(Answer):
    """Ways there and back, and how to get more."""

    round_trips: list[RoundTrip]
    next_page_token: NextPageToken = None


class DayFare(Answer):
    """The lowest price of a day."""

    date: Annotated[dt.date, _shown("2026-12-01")]
    per_passenger: OnePassenger


class FareCalendar(Answer):
    """The days of a month on which something is sold.

    `unreachable` are days of which nothing is known now: a part of search is away.
    """

    month: Annotated[str, _shown("2026-12")]
    days: list[DayFare]
    basis: PriceBasis
    unreachable: list[dt.date] | None = None


class Airport(Answer):
    """An airport; `served` when flights of the timetable go there."""

    code: AirportCode
    name: Annotated[str, _shown("John F Kennedy International Airport")]
    city: Annotated[str, _shown("New York")]
    country: Annotated[str, _shown("US")]
    time_zone: Annotated[str, _shown("America/New_York")]
    served: Annotated[bool, Field(examples=[True])]


class AirportMatches(Answer):
    """Airports, best match first."""

    airports: list[Airport]


class CabinSeats(Answer):
    """Seats of one cabin."""

    cabin: Cabin
    capacity: Annotated[int, _shown(150)]
    seats_available: Seats


class Flight(Answer):
    """A flight on one day."""

    flight_id: FlightId
    carrier: CarrierCode
    number: Number
    aircraft: Aircraft
    departure: Annotated[Call, _shown(_LEAVES | {"scheduled_time": "2026-12-01T06:30:00-05:00"})]
    arrival: Annotated[Call, _shown(_ARRIVES | {"scheduled_time": "2026-12-01T09:55:00-08:00"})]
    status: FlightStatus
    status_reason: str | None = None
    distance_km: Annotated[int, _shown(3983)]
    inferred: Annotated[bool, Field(examples=[False])]
    cabins: list[CabinSeats]
    version: Annotated[int, _shown(3)]
    etag: ETag


class Fare(Answer):
    """The base fare of a route, from which the prices of its flights are computed."""

    origin: AirportCode
    destination: Annotated[str, _shown("LAX")]
    base: Annotated[Money, _usd("140.00")]
    etag: Annotated[str, _shown("f7")]


class LivePrice(Answer):
    """What one passenger pays in one cabin now; `per_passenger` is both together."""

    cabin: Cabin
    fare: OneFare
    taxes: OneTax
    per_passenger: OnePassenger


class LivePrices(Answer):
    """The prices of a flight as they are now: data of `event: price`."""

    flight_id: FlightId
    prices: list[LivePrice]


class Removed(Answer):
    """A flight that has left the timetable: data of `event: removed`."""

    flight_id: FlightId


class Reset(Answer):
    """Why a client has to start anew: data of `event: reset`."""

    reason: Literal["malformed", "history", "ahead", "gap", "slow", "source"]


class Stale(Answer):
    """How old what is known is, in seconds: data of `event: stale`."""

    lag: Annotated[float, _shown(6.2)]


class Live(Answer):
    """What is known is new again: data of `event: live`, without members."""


class QuoteLine(Answer):
    """What one passenger pays for one flight."""

    flight_id: FlightId
    cabin: Cabin
    fare: OneFare
    taxes: OneTax


class Quote(Answer):
    """A price that holds. `itinerary_id` names all its flights; absent with two cabins."""

    quote_id: QuoteId
    itinerary_id: Annotated[str | None, _shown("itn_ChRmbHRfYWJjZGVmZ2gyMzQ1NjcyMxAB")] = None
    cabin: Annotated[Cabin | None, _shown("economy")] = None
    passengers: Annotated[int, _shown(2)]
    total: Money
    lines: list[QuoteLine]
    expire_time: Annotated[dt.datetime, _shown("2026-11-24T12:10:00Z")]


class Passenger(Answer):
    """Who travels."""

    given_name: Annotated[str, _shown("Ann")]
    family_name: Annotated[str, _shown("Lee")]


class Contact(Answer):
    """How to reach the one who booked."""

    email: Annotated[str, _shown("ann@example.org")]


class BookedSegment(Answer):
    """A flight of a booking; all but the first four are absent where schedule can't say."""

    flight_id: FlightId
    cabin: Cabin
    fare: OneFare
    taxes: OneTax
    carrier: Annotated[str | None, _shown("B6")] = None
    number: Annotated[str | None, _shown("23")] = None
    aircraft: Annotated[str | None, _shown("A320")] = None
    departure: Annotated[Call | None, _shown(_LEAVES)] = None
    arrival: Annotated[Call | None, _shown(_ARRIVES)] = None
    status: Annotated[FlightStatus | None, _shown("scheduled")] = None
    status_reason: str | None = None


class Rejection(Answer):
    """Why a booking was rejected."""

    code: Annotated[str, _shown("SEATS_UNAVAILABLE")]
    detail: Annotated[str, _shown("There are not enough seats left.")]


_BO: Final = {"given_name": "Bo", "family_name": "Lee"}


class Booking(Answer):
    """A booking; `partial` when what the flights do now is not all there."""

    booking_id: BookingId
    status: Annotated[BookingStatus, _shown("confirmed")]
    reference: Annotated[str, _shown("K7Q2XM")]
    quote_id: QuoteId
    segments: list[BookedSegment]
    passengers: Annotated[
        list[Passenger], _shown([{"given_name": "Ann", "family_name": "Lee"}, _BO])
    ]
    contact: Contact
    total: Annotated[Money | None, _usd("418.20")] = None
    rejection: Rejection | None = None
    create_time: Moment
    update_time: Annotated[dt.datetime, _shown("2026-11-24T12:01:00.250Z")]
    partial: bool = False


class BookingPage(Answer):
    """Bookings, newest first, without what their flights do now; and how to get more."""

    bookings: list[Booking]
    next_page_token: NextPageToken = None


class Instance(Answer):
    """A process of a service; `since` is when it began."""

    id: Annotated[str, _shown("booking-1")]
    address: Annotated[str, _shown("127.0.0.1:41233")]
    version: Annotated[str, _shown("0.1.0")]
    status: Literal["passing", "warning", "critical"]
    since: Annotated[dt.datetime | None, _shown("2026-11-24T06:00:00Z")] = None


class Service(Answer):
    """A service; `policy` has Consul's config entries about it by kind.

    `warnings` are parts of the policy that have no effect.
    """

    name: Annotated[str, _shown("booking")]
    instances: list[Instance]
    policy: Annotated[dict[str, dict[str, Any]], _shown({"service-defaults": {"Protocol": "grpc"}})]
    warnings: list[Annotated[str, _shown("UpstreamConfig of the caller: Limits is not applied")]]


class Edge(Answer):
    """Who may call whom; `*` is anybody."""

    from_: Annotated[str, Field(alias="from", examples=["gateway-bff"])]
    to: Annotated[str, _shown("booking")]


class Mesh(Answer):
    """The services behind the gateway, and who may call whom."""

    services: list[Service]
    edges: list[Edge]


class FieldError(Answer):
    """What is wrong with one field, parameter or header."""

    field: Annotated[str, _shown("passengers[0].given_name")]
    code: Annotated[str, _shown("REQUIRED")]
    detail: Annotated[str, _shown("Field required")]


class Problem(Answer):
    """What went wrong (RFC 9457)."""

    type: Annotated[str, _shown("https://flightmesh.dev/problems/not-found")]
    title: Annotated[str, _shown("There is nothing here")]
    status: Annotated[int, _shown(404)]
    detail: Annotated[str, _shown("There is nothing here.")]
    instance: Annotated[str, _shown("/v1/nothing")]
    code: Annotated[str, _shown("NOT_FOUND")]
    trace_id: Annotated[str, _shown("4bf92f3577b34da6a3ce929d0e0e4736")]
    errors: list[FieldError] | None = None
    quote: Quote | None = None
    booking_id: str | None = None
    violated_policies: list[str] | None = None
